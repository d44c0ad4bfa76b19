"""The recipe tree of runs that learn a tokenizer."""

from __future__ import annotations

from typing import Literal

from mvd_ds.config.recipes import TrainingRecipe
from mvd_ds.config.targets import HeadShape, TargetSettings
from mvd_ds.config.teachers import TeacherSettings
from mvd_ds.config.tokenizers.settings import TokenEncoderSettings, TokenizerSettings

#: Settings of other trainings that a tokenizer has no use for.
_UNUSED = ("masking", "init", "labels", "language", "balance", "drop_teachers")
#: Settings of a decoder that sees masked tokens.
_OF_MASKED = ("attention", "levels", "hidden", "projection_bias", "norm_eps")
#: Settings of a target that say what is read of a teacher; all others are the tokenizer's own business.
READ = ("blocks", "mode", "norm")


class TokenizerRecipe(TrainingRecipe):
    """One run that learns the codes of one teacher's tokens: nothing is hidden, and ``decoder`` sees the codes of all tokens."""

    objective: Literal["tokenizer"]  # type: ignore[assignment]
    """Learn a tokenizer."""
    model: TokenEncoderSettings
    """Blocks between the teacher's tokens and their codes."""
    tokenizer: TokenizerSettings = TokenizerSettings()
    """The codebook."""

    @property
    def tokenised(self) -> str:
        """Name of the teacher whose tokens become codes."""
        return next(name for name in self.teachers if name != self.tokenizer.perceptual)

    @property
    def teacher(self) -> TeacherSettings:
        """The teacher whose tokens become codes."""
        return self.teachers[self.tokenised]

    @property
    def token_width(self) -> int:
        """Channels of a token as it is read of the teacher."""
        return read_width(self.teacher, self.teacher.target)

    @property
    def code_width(self) -> int:
        """Channels of a code."""
        return self.token_width if self.tokenizer.method == "kmeans" else self.tokenizer.width

    @property
    def reconstructed(self) -> HeadShape:
        """Width of what the decoder predicts of every token, and its shape."""
        pixels = 3 * self.model.tubelet_frames * self.model.patch_px**2
        return HeadShape(self.token_width if self.tokenizer.reconstruct == "features" else pixels, self.decoder, "all")

    @property
    def drop_path_blocks(self) -> int:
        """Uniform numbers per clip that drop path takes: one for every block of encoder and decoder."""
        return self.model.depth + self.decoder.depth

    def _check_objective(self) -> None:
        odd = [key for key in _UNUSED if getattr(self, key) != type(self).model_fields[key].default]
        if odd:
            raise ValueError(f"objective tokenizer hides nothing and has one loss of its own: remove {', '.join(odd)}")
        if self.targets.cache is not None:
            raise ValueError("targets.cache: a tokenizer learns from the teacher itself: remove it")
        odd = [key for key in _OF_MASKED if getattr(self.decoder, key) != type(self.decoder).model_fields[key].default]
        if odd:
            raise ValueError(f"the decoder of a tokenizer sees all tokens: remove decoder.{', decoder.'.join(odd)}")
        self._check_teachers()
        self._check_drop_path()
        if self.model.kind != "video":
            raise ValueError("objective tokenizer has the token grid of a video student: model.kind must be video")
        if self.tokenizer.method == "kmeans" and self.model.depth:
            raise ValueError(f"tokenizer.method kmeans trains no blocks: model.depth must be 0, got {self.model.depth}")
        if not self.model.depth and self.model.embed_dim != self.token_width:
            raise ValueError(
                f"model.depth 0 leaves tokens as they are: model.embed_dim must be {self.token_width}, the width of what is read "
                f"of teachers.{self.tokenised}, got {self.model.embed_dim}"
            )
        if (self.pixels is not None) != (self.tokenizer.reconstruct == "pixels"):
            raise ValueError("tokenizer.reconstruct pixels needs pixels, and reconstruct features takes none")
        if self.pixels is not None and self.pixels.normalise != "none":
            raise ValueError(
                f"a tokenizer reconstructs pixels as they are: pixels.normalise must be none, not {self.pixels.normalise}"
            )

    def _check_drop_path(self) -> None:
        """Refuse a rate that no block has: the decoder's are those of ``model`` unless it states its own."""
        inherits = self.decoder.depth > 0 and self.decoder.drop_path is None
        for name, rate, depth in (
            ("decoder", self.decoder.drop_path, self.decoder.depth),
            ("model", self.model.drop_path, self.model.depth or inherits),
        ):
            if rate and not depth:
                raise ValueError(f"{name}.drop_path {rate}: {name}.depth is 0, there is no block to drop: remove it")

    def _check_teachers(self) -> None:
        perceptual = self.tokenizer.perceptual
        others = [name for name in self.teachers if name != perceptual]
        if len(others) != 1 or (perceptual is not None and perceptual not in self.teachers):
            more = f", and {perceptual}, which tokenizer.perceptual names" if perceptual is not None else ""
            found = ", ".join(self.teachers) or "none"
            raise ValueError(f"objective tokenizer needs one teacher whose tokens become codes{more}; teachers has {found}")
        for name, teacher in self.teachers.items():
            stated = dict(teacher.target)
            odd = [key for key in stated if key not in READ and stated[key] != TargetSettings.model_fields[key].default]
            if odd or teacher.more_targets or teacher.decoder is not None or teacher.target.mode == "each":
                what = [f"target.{key}" for key in odd] or ["target.mode each, more_targets and decoder"]
                raise ValueError(
                    f"teachers.{name}: a tokenizer reads {', '.join(READ)} of it (mode mean or concat): remove {', '.join(what)}"
                )
        teacher = self.teacher
        odd = [key for key in ("loss", "weight") if getattr(teacher, key) != type(teacher).model_fields[key].default]
        if odd:
            raise ValueError(
                f"teachers.{self.tokenised}: tokens are compared by their cosine, pixels by pixels.loss: remove {', '.join(odd)}"
            )
        if perceptual is None:
            return
        teacher = self.teachers[perceptual]
        if teacher.view_of(self.data.clip) != self.data.clip.size_px or teacher.input_frames is not None:
            size = self.data.clip.size_px
            raise ValueError(
                f"teachers.{perceptual}: sees the reconstructed clip, of {size} px: remove input_px, input_frames, time"
            )
        if teacher.placement != "replicated" or teacher.fp8:
            raise ValueError(f"teachers.{perceptual}: gradients pass through it: placement must be replicated, fp8 false")


def read_width(teacher: TeacherSettings, target: TargetSettings) -> int:
    """Return the channels of a token that ``target`` reads of a teacher: blocks are averaged, or side by side."""
    return teacher.embed_dim * (len(set(target.blocks)) if target.mode == "concat" else 1)
