"""The recipe tree of runs that learn a tokenizer."""

from __future__ import annotations

from typing import Literal

from mvd_ds.config.recipes import TrainingRecipe
from mvd_ds.config.targets import HeadShape, TargetSettings
from mvd_ds.config.teachers import TeacherSettings
from mvd_ds.config.tokenizers.settings import TokenEncoderSettings, TokenizerSettings

#: Settings of other trainings that a tokenizer has no use for.
_UNUSED = ("masking", "init", "labels", "language", "balance", "drop_teachers")
#: Parts of an encoder that tokens which are embedded already have no use for.
_OF_PIXELS = ("cls_token", "registers", "network_style")
#: Settings of a decoder that sees masked tokens.
_OF_MASKED = ("attention", "levels", "hidden", "projection_bias", "norm_eps")
#: Settings of a target that say what is read of a teacher; all others are the tokenizer's own business.
READ = ("blocks", "mode", "norm")


class TokenizerRecipe(TrainingRecipe):
    """One run that learns the codes of one teacher's tokens, or of clips: nothing is hidden, and ``decoder`` sees all codes."""

    objective: Literal["tokenizer"]  # type: ignore[assignment]
    """Learn a tokenizer."""
    model: TokenEncoderSettings
    """Blocks between the teacher's tokens and their codes, or the encoder of the clip."""
    tokenizer: TokenizerSettings = TokenizerSettings()
    """The codebook."""

    @property
    def sees_pixels(self) -> bool:
        """True if codes are those of an encoder of its own, False if they are those of a teacher's tokens."""
        return self.tokenizer.encode == "pixels"

    @property
    def tokenised(self) -> str | None:
        """Name of the teacher whose tokens become codes, or are what codes reconstruct; None where no tokens are read."""
        return next((name for name in self.teachers if name != self.tokenizer.perceptual), None)

    @property
    def teacher(self) -> TeacherSettings:
        """The network whose tokens become codes: a teacher, or the encoder of pixels as a teacher of its codes states it."""
        if not self.sees_pixels:
            assert self.tokenised is not None
            return self.teachers[self.tokenised]
        norm = "final" if self.model.final_norm else "none"
        return TeacherSettings.model_validate({**self.model.model_dump(), "weights": "model", "target": {"norm": norm}})

    @property
    def token_width(self) -> int:
        """Channels of a token that becomes a code."""
        return read_width(self.teacher, self.teacher.target)

    @property
    def feature_width(self) -> int:
        """Channels of a token as it is read of teacher ``tokenised``; 0 without one."""
        teacher = None if self.tokenised is None else self.teachers[self.tokenised]
        return 0 if teacher is None else read_width(teacher, teacher.target)

    @property
    def standardises(self) -> bool:
        """True if a teacher's tokens are read and brought to one scale."""
        return self.tokenised is not None and self.tokenizer.standardise == "channel"

    @property
    def token_blocks(self) -> int:
        """Number of blocks between tokens and their codes."""
        return 0 if self.sees_pixels else self.model.depth

    @property
    def code_width(self) -> int:
        """Channels of a code."""
        return self.token_width if self.tokenizer.method == "kmeans" else self.tokenizer.width

    @property
    def reconstructed(self) -> HeadShape:
        """Width of what the decoder predicts of every token, and its shape."""
        pixels = 3 * self.model.tubelet_frames * self.model.patch_px**2
        return HeadShape(self.feature_width if self.tokenizer.reconstruct == "features" else pixels, self.decoder, "all")

    @property
    def drop_path_blocks(self) -> int:
        """Uniform numbers per clip that drop path takes: one for every block of encoder and decoder."""
        return self.model.depth + self.decoder.depth

    def _check_objective(self) -> None:
        odd = [key for key in _UNUSED if getattr(self, key) != type(self).model_fields[key].default]
        if odd:
            raise ValueError(f"objective tokenizer hides nothing and has one loss of its own: remove {', '.join(odd)}")
        if self.optimizer.layer_decay != 1.0:
            raise ValueError("objective tokenizer trains all blocks at one rate: remove optimizer.layer_decay")
        if self.targets.cache is not None:
            raise ValueError("targets.cache: a tokenizer learns from the teacher itself: remove it")
        odd = [key for key in _OF_MASKED if getattr(self.decoder, key) != type(self.decoder).model_fields[key].default]
        if odd:
            raise ValueError(f"the decoder of a tokenizer sees all tokens: remove decoder.{', decoder.'.join(odd)}")
        self._check_teachers()
        self._check_drop_path()
        self._check_encoder()
        if (self.pixels is not None) != (self.tokenizer.reconstruct == "pixels"):
            raise ValueError("tokenizer.reconstruct pixels needs pixels, and reconstruct features takes none")
        if self.pixels is not None and self.pixels.normalise != "none":
            raise ValueError(
                f"a tokenizer reconstructs pixels as they are: pixels.normalise must be none, not {self.pixels.normalise}"
            )

    def _check_encoder(self) -> None:
        """Refuse a ``model`` that cannot be what is between clip or tokens and codes."""
        model = self.model
        if self.sees_pixels:
            if not model.depth:
                raise ValueError("tokenizer.encode pixels trains an encoder of the clip: model.depth must be 1 or more")
            if model.kind == "image" and self.data.clip.frames != 1:
                raise ValueError(
                    f"model.kind image has codes of single images: data.clip.frames must be 1, got {self.data.clip.frames}"
                )
            return
        odd = [key for key in _OF_PIXELS if getattr(model, key) != type(model).model_fields[key].default]
        if odd:
            raise ValueError(f"a tokenizer sees the tokens of its teacher: remove {', '.join(odd)}")
        if model.kind != "video":
            raise ValueError("a tokenizer of a teacher has the token grid of a video student: model.kind must be video")
        if self.tokenizer.method == "kmeans" and model.depth:
            raise ValueError(f"tokenizer.method kmeans trains no blocks: model.depth must be 0, got {model.depth}")
        if not model.depth and model.embed_dim != self.token_width:
            raise ValueError(
                f"model.depth 0 leaves tokens as they are: model.embed_dim must be {self.token_width}, the width of what is read "
                f"of teachers.{self.tokenised}, got {model.embed_dim}"
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
        reads = not self.sees_pixels or self.tokenizer.reconstruct == "features"
        if len(others) != reads or (perceptual is not None and perceptual not in self.teachers):
            wanted = (
                ["one teacher whose tokens " + ("are reconstructed" if self.sees_pixels else "become codes")] if reads else []
            )
            wanted += [f"{perceptual}, which tokenizer.perceptual names"] if perceptual is not None else []
            found = ", ".join(self.teachers) or "none"
            raise ValueError(f"objective tokenizer needs {', and '.join(wanted) or 'no teacher'}; teachers has {found}")
        for name, teacher in self.teachers.items():
            stated = dict(teacher.target)
            odd = [key for key in stated if key not in READ and stated[key] != TargetSettings.model_fields[key].default]
            if odd or teacher.more_targets or teacher.decoder is not None or teacher.target.mode == "each":
                what = [f"target.{key}" for key in odd] or ["target.mode each, more_targets and decoder"]
                raise ValueError(
                    f"teachers.{name}: a tokenizer reads {', '.join(READ)} of it (mode mean or concat): remove {', '.join(what)}"
                )
        read = {} if self.tokenised is None else dict(self.teachers[self.tokenised])
        odd = [key for key in ("loss", "weight") if key in read and read[key] != TeacherSettings.model_fields[key].default]
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
