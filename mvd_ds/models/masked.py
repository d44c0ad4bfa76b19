"""The student of both stages: an encoder of visible tokens and a readout for every target."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from mvd_ds.config import LOG_VARIANCES, ConfigError, DecoderSettings, EncoderSettings, Grid, HeadShape
from mvd_ds.models.embed import split_mask
from mvd_ds.models.readouts import LabelHead, readout_of
from mvd_ds.models.readouts.log_variances import LogVariances
from mvd_ds.models.readouts.prototypes import PrototypeReadout
from mvd_ds.models.vit import VisionTransformer


class MaskedPredictor(nn.Module):
    """An encoder and one readout per target, which by default is a decoder; they share nothing.

    Args:
        settings: the encoder.
        grid: (t, h, w) token grid.
        heads: what each target asks for, by name.
        weighs: True if a log variance is learned for each target, as balance uncertainty wants.
    """

    def __init__(self, settings: EncoderSettings, grid: Grid, heads: Mapping[str, HeadShape], weighs: bool = False) -> None:
        super().__init__()
        self.encoder = VisionTransformer(settings, grid)
        self.decoders = nn.ModuleDict({name: readout_of(shape)(shape, settings, grid) for name, shape in heads.items()})
        self.balance = LogVariances(len(heads)) if weighs else None
        self.heads = dict(heads)
        self.block_counts = [settings.depth] + [shape.decoder.depth for shape in heads.values()]

    @property
    def outputs(self) -> dict[str, int]:
        """Width of each target by name."""
        return {name: shape.width for name, shape in self.heads.items()}

    @property
    def decoder_settings(self) -> DecoderSettings:
        """Shape that all decoders have, as the files of published code state it.

        Raises:
            ConfigError: if there are several shapes, or readouts of other tokens than the masked ones.
        """
        if not self.is_published:
            raise ConfigError(
                f"the decoders of this student ({', '.join(self.heads)}) do not all have one shape and self-attention, which "
                "published layouts demand; export its encoder alone"
            )
        return next(iter(self.heads.values())).decoder

    @property
    def is_published(self) -> bool:
        """True if all decoders have one shape, self-attention, and predict masked tokens, as in the files of published code."""
        shapes = {shape._replace(width=1) for shape in self.heads.values()}
        first = next(iter(shapes))
        return len(shapes) == 1 and first.tokens == "masked" and first.decoder.attention == "self"

    @property
    def drop_path_blocks(self) -> int:
        """Uniforms per mask that drop path takes: the encoder's blocks, then each decoder's in the order of ``outputs``."""
        return sum(self.block_counts)

    def forward(
        self,
        clip: Tensor,
        mask: Tensor,
        masked: Tensor | None = None,
        drop_path: Tensor | None = None,
        labelled: Tensor | None = None,
        local: Tensor | None = None,
        local_visible: Tensor | None = None,
        learning: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the predictions of every target for the masked tokens.

        Args:
            clip: (B, C, T, H, W) normalised.
            mask: bool (B, N) or (B, K, N), True = masked; or, with ``masked``, int64 (B, K, V) indices of visible tokens.
            masked: int64 (B, K, M) indices of the tokens to predict; None: all that the bool ``mask`` hides.
            drop_path: (B, K, drop_path_blocks) uniforms in [0, 1), or None.
            labelled: bool (B,), clips with a class, for the statistics of a class head with batch norm; None: all.
            local: (B*L, C, T, H, W) normalised, local crops in empty clips, for a head of prototypes; None: there are none.
            local_visible: int64 (B*L, 1, V), the tokens of them that are not empty.
            learning: scalar, 0 while prototypes do not learn; None: they do.

        Returns:
            (B * K, M, width) by name, or what else the name's ``HeadShape.tokens`` asks for; and where it ``weighs``, one log
            variance for each name under ``LOG_VARIANCES``.

        Raises:
            ConfigError: if the clip or the mask does not have the shape or type that is stated here.
        """
        visible = mask
        if masked is None:
            visible, masked = split_mask(mask, len(clip), math.prod(self.encoder.grid))
        parts: list[Tensor | None] = [None] * len(self.block_counts)
        if drop_path is not None:
            parts = list(drop_path.split(self.block_counts, dim=-1))
        # Before the clip, so that whoever looks at the encoder sees the clip last.
        crops = None if local is None else self.encoder(local, local_visible)[:, 0].unflatten(0, (len(clip), -1))
        levels: list[Tensor] | None = [] if any(decoder.needs_levels for decoder in self.decoders.values()) else None
        encoded = self.encoder(clip, visible, parts[0], levels=levels)
        if labelled is not None:
            labelled = labelled.repeat_interleave(visible.shape[1])
        visible, masked = visible.flatten(0, 1), masked.flatten(0, 1)
        predictions = {}
        for (name, decoder), uniforms in zip(self.decoders.items(), parts[1:], strict=True):
            own = None if uniforms is None else uniforms.flatten(0, 1)
            more = {"labelled": labelled} if isinstance(decoder, LabelHead) else {}
            if isinstance(decoder, PrototypeReadout):
                more = {"local": crops, "learning": learning}
            predictions[name] = decoder(encoded, visible, masked, own, tuple(levels or ()), **more)
        if self.balance is not None:
            predictions[LOG_VARIANCES] = self.balance()
        return predictions
