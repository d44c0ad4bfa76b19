"""The base class of all readouts."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from mvd_ds.config import EncoderSettings, Grid, HeadShape


class Readout(nn.Module, ABC):
    """A part of a student that predicts one target from encoded visible tokens.

    A kind of readout is a subclass in a file of this folder and a row of ``READOUTS``. Its parameters are named
    ``decoders.NAME.*`` in the student.

    Args:
        shape: what the target asks for.
        encoder: settings of the encoder.
        grid: (t, h, w) token grid.
    """

    needs_levels: bool = False
    """True for one that reads the outputs of the encoder's blocks, too."""

    def __init__(self, shape: HeadShape, encoder: EncoderSettings, grid: Grid) -> None:
        super().__init__()
        self.shape = shape

    @abstractmethod
    def forward(
        self,
        encoded: Tensor,
        visible: Tensor,
        masked: Tensor,
        drop_path: Tensor | None = None,
        levels: tuple[Tensor, ...] = (),
    ) -> Tensor:
        """Return the predictions.

        Args:
            encoded: (B, [1 +] V, D of the encoder), the class token first.
            visible: int64 (B, V) token indices.
            masked: int64 (B, M) token indices.
            drop_path: (B, depth) uniforms, or None.
            levels: the encoder's tokens before its first block and after every block, each as ``encoded``, if needed.

        Returns:
            (B, P, width) for the P tokens that ``shape.tokens`` names, masked ones in the order of ``masked`` first; (B, width)
            for a summary.
        """

    @staticmethod
    @abstractmethod
    def flops(shape: HeadShape, encoder: EncoderSettings, visible: int, masked: int) -> int:
        """Return the operations of matrix products for one sample of ``visible`` and ``masked`` tokens."""
