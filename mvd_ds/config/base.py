"""The base class and the value types of the settings tree."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PACKAGE_FOLDER = Path(__file__).resolve().parent.parent
RECIPE_FOLDER = PACKAGE_FOLDER / "recipes"
# In a clone ds_configs is a link to the folder at the top; in an installed package it is a folder.
ENGINE_FOLDER = (PACKAGE_FOLDER / "ds_configs").resolve()

Grid = tuple[int, int, int]
"""Token grid (t, h, w); N = t * h * w tokens, t-major, then h, then w."""

Positive = Annotated[int, Field(ge=1, le=10**9)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


_USER = re.compile(r"(?<=://)[^/?#\s]*@")
# Names hold blanks and quotes: rather a word too many is hidden than a signature shown.
_QUERY = re.compile(r"(?P<address>[a-z0-9]+://[^?#\n]*)[?#][^\s'\"]*", re.IGNORECASE)


def is_address(path: str) -> bool:
    """Return whether a path is the address of something that is not on this machine: ``s3://bucket/train.txt``."""
    return re.match(r"[a-z][a-z0-9]*://", path) is not None


def without_secrets(text: object) -> str:
    """Return ``text`` without users, passwords and queries of the addresses in it: a signed query is as good as a password."""
    return _QUERY.sub(r"\g<address>?...", _USER.sub("...@", str(text))) if "://" in str(text) else str(text)


def _expanded(path: str) -> str:
    """Return a path with ``~`` expanded; braces and dollar signs are characters like any other."""
    if "\0" in path:
        raise ValueError("a path cannot hold a zero byte")
    if is_address(path):
        if without_secrets(path) != path:
            raise ValueError("an address in a recipe holds no user, password or query; credentials belong into the environment")
        return path
    return os.path.expanduser(path)


PathText = Annotated[str, Field(min_length=1), AfterValidator(_expanded)]
"""A setting that is a path: ``~`` is the home folder, everything else is taken as typed."""


class Settings(BaseModel):
    """Base of every node: frozen, and a key that is not declared is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
