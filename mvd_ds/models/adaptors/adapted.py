"""An encoder with the heads of its teachers: it answers in the space of each of them, with nothing masked."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mvd_ds.config import AdaptorSettings, ConfigError, EncoderSettings, Grid
from mvd_ds.files import did_you_mean
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.models.readouts import Readout


class Undo(nn.Module):
    """The inverse of a standardisation: every part y becomes shift + (y * factor) @ rotation, in fp32.

    Args:
        parts: number of parts of an answer, each of which was standardised by itself.
        width: D of a part.
        is_rotated: whether there is a rotation.
    """

    factor: Tensor
    shift: Tensor
    rotation: Tensor | None

    def __init__(self, parts: int, width: int, is_rotated: bool) -> None:
        super().__init__()
        self.register_buffer("factor", torch.ones(parts, width))
        self.register_buffer("shift", torch.zeros(parts, width))
        self.register_buffer("rotation", torch.zeros(parts, width, width) if is_rotated else None)

    def forward(self, answers: Tensor) -> Tensor:
        """Map (..., parts * D) to (..., parts * D)."""
        scaled = answers.float().unflatten(-1, tuple(self.factor.shape)) * self.factor
        turned = scaled if self.rotation is None else torch.einsum("...pd,pde->...pe", scaled, self.rotation)
        return (turned + self.shift).flatten(-2)


class AdaptedEncoder(nn.Module):
    """An encoder and adaptors, the heads of its teachers.

    All tokens of a clip are visible to the encoder. Decoders of self-attention have no mask token to fill: their blocks run on
    the visible tokens, and their heads are applied there, though most learnt at masked ones. Those of cross-attention ask by
    mask tokens at the places of all visible ones.

    Args:
        settings: the encoder.
        grid: (t, h, w) token grid.
        adaptors: the heads, by name.
    """

    def __init__(self, settings: EncoderSettings, grid: Grid, adaptors: Mapping[str, AdaptorSettings]) -> None:
        super().__init__()
        self.adaptors = dict(adaptors)
        student = MaskedPredictor(settings, grid, {name: adaptor.shape for name, adaptor in adaptors.items()})
        self.encoder, self.decoders = student.encoder, student.decoders
        for decoder in self.decoders.values():
            assert isinstance(decoder, Readout)
            if decoder.shape.tokens != "summary":
                decoder.shape = decoder.shape._replace(tokens="visible")
        self.undo = nn.ModuleDict()

    def in_precision(self, dtype: torch.dtype) -> AdaptedEncoder:
        """Compute the encoder and the heads in ``dtype``, and return it; standardisation is undone in fp32."""
        for trained in (self.encoder, self.decoders):
            trained.to(dtype)
        return self

    def undo_by(self, name: str, factor: Tensor, shift: Tensor, rotation: Tensor | None) -> None:
        """Have the answers of an adaptor come back from standardised ones.

        Args:
            name: the adaptor.
            factor: (parts, D), see ``Undo``.
            shift: (parts, D).
            rotation: (parts, D, D), or None.
        """
        self.undo[name] = Undo(*shift.shape, is_rotated=rotation is not None)
        self.undo[name].load_state_dict({"factor": factor, "shift": shift} | ({} if rotation is None else {"rotation": rotation}))

    def require(self, name: str) -> AdaptorSettings:
        """Return the description of an adaptor.

        Raises:
            ConfigError: if there is none of this name.
        """
        if name not in self.adaptors:
            known = f"adaptors are {', '.join(self.adaptors)}"
            raise ConfigError(f"there is no adaptor '{name}'; {did_you_mean(name, self.adaptors, known)}")
        return self.adaptors[name]

    def forward(self, clip: Tensor, *names: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the encoder's tokens, and the answers of adaptors.

        Args:
            clip: (B, C, T, H, W) normalised.
            names: adaptors that answer; none: all of them.

        Returns:
            (B, [1 +] N, D) after the final norm; and fp32 (B, N, width), or (B, width) of a summary, by name.
        """
        asked = {name: self.decoders[name] for name in names or self.adaptors}
        levels: list[Tensor] | None = [] if any(decoder.needs_levels for decoder in asked.values()) else None
        encoded = self.encoder(clip, levels=levels)
        # Not len(clip): a graph would hold for that number of clips alone.
        visible = torch.arange(math.prod(self.encoder.grid), device=clip.device).expand(clip.shape[0], -1)
        answers = {}
        for name, decoder in asked.items():
            answer = decoder(encoded, visible, visible[:, :0], None, tuple(levels or ())).float()
            answers[name] = self.undo[name](answer) if name in self.undo else answer
        return encoded, answers

    def adapt(self, name: str, clip: Tensor) -> Tensor:
        """Return the answer of one adaptor to normalised clips (B, C, T, H, W).

        Raises:
            ConfigError: if there is none of this name.
        """
        self.require(name)
        return self(clip, name)[1][name]
