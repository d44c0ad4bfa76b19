"""The student of both stages: an encoder of visible tokens and a readout for every target."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from mvd_ds.config import LOG_VARIANCES, ConfigError, DecoderSettings, EncoderSettings, Grid, HeadShape, LanguageSettings
from mvd_ds.models.embed import split_mask
from mvd_ds.models.readouts import LabelHead, readout_of
from mvd_ds.models.readouts.log_variances import LogVariances
from mvd_ds.models.readouts.prototypes import PrototypeReadout
from mvd_ds.models.text.head import LanguageHead
from mvd_ds.models.vit import VisionTransformer


class MaskedPredictor(nn.Module):
    """An encoder and one readout per target, which by default is a decoder; they share nothing.

    Args:
        settings: the encoder.
        grid: (t, h, w) token grid.
        heads: what each target asks for, by name.
        weighs: True if a log variance is learned for each target, as balance uncertainty wants.
        language: the text tower beside it, and the space that clips share with their captions; None: there is none.
    """

    def __init__(
        self,
        settings: EncoderSettings,
        grid: Grid,
        heads: Mapping[str, HeadShape],
        weighs: bool = False,
        language: LanguageSettings | None = None,
    ) -> None:
        super().__init__()
        self.encoder = VisionTransformer(settings, grid)
        self.decoders = nn.ModuleDict({name: readout_of(shape)(shape, settings, grid) for name, shape in heads.items()})
        self.balance = LogVariances(len(heads)) if weighs else None
        self.language = LanguageHead(language, settings) if language is not None else None
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
        first = next(iter(shapes), HeadShape(1, tokens="all"))
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
        captions: Tensor | None = None,
        pairs_alone: bool = False,
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
            captions: int64 (B, L), tokens of a caption of each clip, for a student with ``language``; None: no vectors of texts.
            pairs_alone: compute what ``LanguageHead`` gives and nothing else.

        Returns:
            (B * K, M, width) by name, or what else the name's ``HeadShape.tokens`` asks for; and where it ``weighs``, one log
            variance for each name under ``LOG_VARIANCES``; with captions, what ``LanguageHead`` gives.

        Raises:
            ConfigError: if the clip or the mask does not have the shape or type that is stated here.
        """
        grid, counts = self.encoder.grid, self.block_counts
        visible, masked = split_mask(mask, len(clip), math.prod(grid)) if masked is None else (mask, masked)
        parts: list[Tensor | None] = [None] * len(counts) if drop_path is None else [*drop_path.split(counts, dim=-1)]
        # Before the clip, so that whoever looks at the encoder sees the clip last.
        crops = None if local is None else self.encoder(local, local_visible)[:, 0].unflatten(0, (len(clip), -1))
        sees_all = self.language is not None and self.language.settings.sees == "all"
        found = self._pairs(self.encoder(clip), captions) if sees_all and captions is not None else {}
        if pairs_alone and found:
            return found
        levels: list[Tensor] | None = [] if any(decoder.needs_levels for decoder in self.decoders.values()) else None
        encoded = self.encoder(clip, visible, parts[0], levels=levels)
        found = found or self._pairs(encoded, captions)
        if pairs_alone:
            return found
        if labelled is not None:
            labelled = labelled.repeat_interleave(visible.shape[1])
        visible, masked = visible.flatten(0, 1), masked.flatten(0, 1)
        for (name, decoder), uniforms in zip(self.decoders.items(), parts[1:], strict=True):
            own = None if uniforms is None else uniforms.flatten(0, 1)
            more = {"labelled": labelled} if isinstance(decoder, LabelHead) else {}
            if isinstance(decoder, PrototypeReadout):
                more = {"local": crops, "learning": learning}
            found[name] = decoder(encoded, visible, masked, own, tuple(levels or ()), **more)
        if self.balance is not None:
            found[LOG_VARIANCES] = self.balance()
        return found

    def _pairs(self, encoded: Tensor, captions: Tensor | None) -> dict[str, Tensor]:
        """Return the vectors of clips, out of the encoder's output, and of their captions; nothing without captions."""
        if self.language is None or captions is None:
            return {}
        vectors: dict[str, Tensor] = self.language(encoded, captions, self.encoder.blocks)
        return vectors
