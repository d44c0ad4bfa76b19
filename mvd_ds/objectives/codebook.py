"""The codes of a tokenizer that is being learned: statistics that move, equal on all ranks whatever their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from mvd_ds.config import ConfigError
from mvd_ds.config.tokenizers.settings import TokenizerSettings
from mvd_ds.objectives.moving_statistics import Statistics
from mvd_ds.objectives.standardisers.running import RunningStandardiser

Start = Callable[[Tensor], Tensor]
"""Returns the vectors fp32 (K, d) to begin with, found in tokens fp32 (S, d)."""
#: A code with less than this part of an even share of a step's tokens is not counted as used.
USED = 0.01


class FixedStandardiser(RunningStandardiser):
    """Each channel less its mean, over its deviation, as the calibration found them: codes must not drift with a scale."""

    moves: ClassVar[bool] = False

    @torch.no_grad()
    def observe(self, features: Tensor, standardised: Tensor) -> None:
        """Collect count, mean and square of every channel in the calibration, nothing in training."""
        if self.round is not None:
            super().observe(features, standardised)


class Codebook(Statistics):
    """The vectors of all codes, the share of tokens that each gets, and how both follow the tokens of every step.

    ``vq``: c <- unit(decay * c + (1 - decay) * unit(mean of its tokens)), codes without a token stay. Source: BEiT v2.
    ``kmeans``: c <- mean of all tokens that it ever got. Source: Sculley, WWW 2010.
    Both: share <- decay * share + (1 - decay) * share of this step; a code whose share is below ``dead_below`` / K starts again
    at a token of the step, with an even share.

    Args:
        settings: the codebook.
        width: d, channels of a code.
        tokens: N, tokens of a clip.
        step_clips: clips of a step.
        calibration_clips: clips of the calibration, in whole steps.
        start: finds the vectors to begin with.
    """

    rounds: ClassVar[tuple[int, ...]] = (1,)
    moves: ClassVar[bool] = True
    vectors: Tensor
    share: Tensor
    counts: Tensor
    latest: Tensor

    def __init__(
        self, settings: TokenizerSettings, width: int, tokens: int, step_clips: int, calibration_clips: int, start: Start
    ) -> None:
        self.shapes = [(settings.codes,), (settings.codes, width), (step_clips, width)]
        super().__init__(sum(torch.Size(shape).numel() for shape in self.shapes))
        self.settings, self.width, self.start = settings, width, start
        self.step_clips, self.calibration_clips = step_clips, calibration_clips
        self.start_tokens = min(-(-settings.start_tokens * settings.codes // calibration_clips), tokens)
        """Tokens of each clip of the calibration in which the start is looked for."""
        self.register_buffer("vectors", torch.zeros(settings.codes, width))
        self.register_buffer("share", torch.full((settings.codes,), 1.0 / settings.codes))
        self.register_buffer("counts", torch.zeros(settings.codes, dtype=torch.float64))
        # What is told: ``share`` of a code that starts again is made up, so that it never shows what is out of use.
        self.register_buffer("latest", torch.full((settings.codes,), 1.0 / settings.codes), persistent=False)

    def begin(self, number: int) -> None:
        """Make room for the tokens of the calibration: each has its own place, so that a sum over ranks puts them together."""
        self.sums = torch.zeros(self.calibration_clips * self.start_tokens * self.width, device=self.vectors.device)
        super().begin(number)

    @torch.no_grad()
    def observe(self, tokens: Tensor, codes: Tensor, place: Tensor) -> None:
        """Collect the tokens of a micro batch.

        Args:
            tokens: fp32 (B, N, d).
            codes: int64 (B, N).
            place: int64 (B,), place of each clip in the stream of the training.
        """
        if self.round is not None:
            self._keep(tokens, place)
            return
        counts, totals, fresh = self._parts(self.sums)
        flat = codes.flatten()
        counts.index_add_(0, flat, torch.ones_like(flat, dtype=torch.float64))
        totals.index_add_(0, flat, tokens.flatten(0, 1).double())
        # One token of every clip, a different one each time, may become a code: which, is a function of the clip's place.
        chosen = (place * 2654435761) % tokens.shape[1]
        fresh[place % self.step_clips] = tokens[torch.arange(len(place), device=place.device), chosen].double()

    def settle(self, sums: Tensor) -> None:
        """Begin with the centres of the calibration's tokens.

        Raises:
            ConfigError: if they are fewer than codes.
        """
        tokens, codes = sums.view(-1, self.width), self.settings.codes
        if len(tokens) < codes:
            raise ConfigError(
                f"tokenizer.codes {codes}: the calibration clips have {len(tokens)} tokens to begin with; raise "
                "calibration_clips, or lower tokenizer.codes"
            )
        self.vectors.copy_(self.start(tokens))
        self.sums = torch.zeros(sum(torch.Size(shape).numel() for shape in self.shapes), dtype=torch.float64, device=sums.device)

    def move(self, sums: Tensor, progress: float) -> None:
        """Move codes and shares by the tokens of a step."""
        counts, totals, fresh = self._parts(sums)
        means = totals / counts.clamp_min(1)[:, None]
        if self.settings.method == "kmeans":
            self.counts += counts
            rate = counts / self.counts.clamp_min(1)
            moved = self.vectors.double().lerp(means, rate[:, None])
        else:
            mixed = self.settings.decay * self.vectors.double() + (1 - self.settings.decay) * functional.normalize(means, dim=-1)
            moved = torch.where(counts[:, None] > 0, functional.normalize(mixed, dim=-1), self.vectors.double())
        self.vectors.copy_(moved)
        share = counts / counts.sum().clamp_min(1)
        self.latest.copy_(share)
        self.share.copy_(self.settings.decay * self.share.double() + (1 - self.settings.decay) * share)
        self._revive(fresh.float())

    def summary(self) -> dict[str, Tensor]:
        """Return the part of the codes that the last step used, and exp of the entropy of their shares of its tokens, 1 to K."""
        return {
            "usage": (self.latest * self.settings.codes >= USED).float().mean(),
            "perplexity": torch.exp(-torch.special.xlogy(self.latest, self.latest).sum()),
        }

    def _revive(self, fresh: Tensor) -> None:
        """Give dead codes the tokens of the step, one each, in the order of the codes; others wait for the next step."""
        even = 1.0 / self.settings.codes
        dead = self.share < self.settings.dead_below * even
        turn = dead.cumsum(0) - 1
        revived = dead & (turn < len(fresh))
        self.vectors.copy_(torch.where(revived[:, None], fresh[turn.clamp(0, len(fresh) - 1)], self.vectors))
        self.share.masked_fill_(revived, even)
        self.counts.masked_fill_(revived, 0.0)

    def _keep(self, tokens: Tensor, place: Tensor) -> None:
        kept = self.sums.view(self.calibration_clips, self.start_tokens, self.width)
        for clip, number in zip(tokens, place.tolist(), strict=True):
            drawn = torch.randperm(len(clip), generator=torch.Generator().manual_seed(number))[: self.start_tokens]
            kept[number] = clip[drawn.to(clip.device)]

    def _parts(self, sums: Tensor) -> list[Tensor]:
        """Return views of ``sums``: tokens of every code (K,), their sum (K, d), and a token of every clip (G, d)."""
        parts = sums.split([torch.Size(shape).numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
