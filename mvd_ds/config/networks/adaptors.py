"""The description of an adaptor: the head of a teacher that stays on an exported encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from mvd_ds.config.base import Positive, Settings
from mvd_ds.config.networks.decoder import DecoderSettings
from mvd_ds.config.targets import HeadShape, Tokens
from mvd_ds.files import ConfigError, one_line


class AdaptorSettings(Settings):
    """An adaptor in the ``config.json`` of an exported folder: what its head is, and what it learnt."""

    width: Positive
    """Numbers of an answer for a token, or for a clip."""
    tokens: Tokens
    """Tokens at which the head learnt: masked, visible, all; or summary, one vector of a clip."""
    decoder: DecoderSettings
    """Shape of the head."""
    standardise: Literal["none", "token", "clip", "running", "phi_s"] = "none"
    """Standardisation of the features that it learnt. running and phi_s are undone in its answers; token and clip, which use
    statistics that nobody keeps, are not."""
    space: str = ""
    """What its answers are compared with: the teacher's weights, and the blocks that were read."""

    @classmethod
    def read(cls, values: Mapping[str, Any], origin: str) -> AdaptorSettings:
        """Return the description of an adaptor.

        Raises:
            ConfigError: naming the first value that cannot be.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, (origin, *fault["loc"])))
            raise ConfigError(f"{one_line(where)}: {one_line(fault['msg'], 200)}") from None

    @property
    def is_summary(self) -> bool:
        """True if the answer is one vector of a clip."""
        return self.tokens == "summary"

    @property
    def is_undone(self) -> bool:
        """True if answers are in the teacher's own space and on its own scale."""
        return self.standardise not in ("token", "clip")

    @property
    def shape(self) -> HeadShape:
        """Return what the target asked of the student."""
        return HeadShape(self.width, self.decoder, self.tokens)
