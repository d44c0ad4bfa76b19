"""A video classifier as VideoMAE and MVD fine-tune it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvd_ds.config import ConfigError, EncoderSettings, Grid, PoolingSettings, PreprocessingSettings
from mvd_ds.models.blocks.norms import NORMS
from mvd_ds.models.classifiers.pooling import Pooling
from mvd_ds.models.linear import Linear
from mvd_ds.models.vit import VisionTransformer

#: The head starts this small. Source: MVD and VideoMAE, ``init_scale``.
HEAD_SCALE = 1e-3


class ClassHead(Linear):
    """A Linear that starts from a truncated normal of std 0.02, times ``HEAD_SCALE``, and zero bias.

    Of one vector for each class, (B, classes, D), each goes through the row of its own class alone.
    """

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights."""
        nn.init.trunc_normal_(self.weight, std=0.02, generator=generator)
        with torch.no_grad():
            self.weight.mul_(HEAD_SCALE)
        nn.init.zeros_(self.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Map (B, D) or (B, classes, D) to (B, classes)."""
        return super().forward(pooled) if pooled.ndim == 2 else (pooled * self.weight).sum(dim=-1) + self.bias


class Classifier(nn.Module):
    """Pooled tokens, norm, dropout, linear head; by default the mean of all patch tokens and no norm before it. Source: MVD 2.1.

    Args:
        settings: the encoder; its ``final_norm`` is left out, whatever it says.
        grid: (t, h, w) token grid.
        classes: number of classes.
        norm_eps: epsilon of the norm; None: the encoder's.
        dropout: rate before the head.
        pooling: how tokens become one vector, before the norm or after it; None: their mean, before it.
    """

    def __init__(
        self,
        settings: EncoderSettings,
        grid: Grid,
        classes: int,
        norm_eps: float | None = None,
        dropout: float = 0.0,
        pooling: PoolingSettings | None = None,
    ) -> None:
        super().__init__()
        width = settings.embed_dim
        self._require_blocks(settings, pooling)
        self.encoder = VisionTransformer(settings.model_copy(update={"final_norm": False}), grid)
        self.pooling = Pooling(pooling or PoolingSettings(), width, settings.num_heads, settings.cls_token, classes)
        self.norm = NORMS[settings.norm](width, eps=norm_eps or settings.norm_eps)
        self.dropout = dropout
        self.head = ClassHead(width, classes)

    @staticmethod
    def _require_blocks(settings: EncoderSettings, pooling: PoolingSettings | None) -> None:
        layers, depth = () if pooling is None else pooling.layers, settings.depth
        if any(not -depth <= layer < depth for layer in layers):
            raise ConfigError(f"pooling.layers {list(layers)}: the encoder has blocks 0 to {depth - 1}, or -{depth} to -1")

    def forward(self, clip: Tensor, drop_path: Tensor | None = None, dropout: Tensor | None = None) -> Tensor:
        """Return the logits (B, classes).

        Args:
            clip: (B, C, T, H, W) normalised.
            drop_path: (B, 1, depth) uniforms in [0, 1), or None.
            dropout: (B, D) uniforms in [0, 1); None: they come from torch's generator.
        """
        layers = self._layers(clip, drop_path)
        if self.pooling.settings.place == "after_norm":
            pooled = self.pooling(*map(self.norm, layers))
        else:
            pooled = self.norm(self.pooling(*layers).to(layers[0].dtype))
        return self.head(self._drop(pooled.to(self.head.weight.dtype), dropout))

    def _layers(self, clip: Tensor, drop_path: Tensor | None) -> list[Tensor]:
        """Return the tokens (B, [1 +] N, D) after every block that is pooled."""
        wanted = self.pooling.settings.layers
        if wanted == (-1,):
            return [self.encoder(clip, None, drop_path)]
        levels: list[Tensor] = []
        self.encoder(clip, None, drop_path, levels=levels)
        return [levels[1:][layer] for layer in wanted]

    def _drop(self, pooled: Tensor, uniforms: Tensor | None) -> Tensor:
        """Apply dropout to (B, [classes,] D) by ``uniforms`` (B, D), so that it depends on the clip and not on the process."""
        if self.dropout == 0.0 or not self.training:
            return pooled
        if uniforms is None:
            return functional.dropout(pooled, self.dropout)
        kept = ((uniforms >= self.dropout) / (1 - self.dropout)).to(pooled.dtype)
        return pooled * (kept if pooled.ndim == 2 else kept[:, None])


class PixelInput(nn.Module):
    """A network that normalises uint8 clips itself, in fp32, so that nobody has to get this right.

    Args:
        preprocessing: mean and deviation of the clips.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: PreprocessingSettings) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1, 1), persistent=False)

    def normalised(self, clip: Tensor, dtype: torch.dtype) -> Tensor:
        """Return uint8 clips (B, C, T, H, W) as a network with weights of ``dtype`` takes them."""
        return ((clip.float() / 255 - self.mean) / self.std).to(dtype)


class PixelClassifier(PixelInput):
    """A classifier of clips as they are decoded.

    Args:
        classifier: a ``Classifier``, or another network of normalised clips that gives logits.
        preprocessing: mean and deviation.
    """

    def __init__(self, classifier: nn.Module, preprocessing: PreprocessingSettings) -> None:
        super().__init__(preprocessing)
        self.classifier = classifier

    def forward(self, clip: Tensor) -> Tensor:
        """Map uint8 (B, C, T, H, W) to logits (B, classes), in the type of the classifier's weights."""
        return self.classifier(self.normalised(clip, next(self.classifier.parameters()).dtype))
