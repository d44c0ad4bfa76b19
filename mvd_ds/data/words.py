"""Files of words: the names of classes, and the templates they stand in, from which a text tower makes a classifier."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mvd_ds.data.manifests.captions import checked_captions
from mvd_ds.data.manifests.manifest import read_list
from mvd_ds.data.manifests.rows import load_json, seems_json
from mvd_ds.files import ConfigError, did_you_mean, one_line

PLACE = "{}"
"""Place of the name in a template."""
_OTHER_PLACE = re.compile(r"\{[^{}]+\}")
_KEYS = ("classes", "templates")
MOST_TEXTS = 1_000_000
"""Most texts of a file: 20,000 classes in 50 templates."""


class Words(NamedTuple):
    """The classes that are told apart, in words."""

    classes: tuple[str, ...]
    """Names of the classes."""
    words: tuple[tuple[str, ...], ...]
    """Words for each class: its name, or others."""
    templates: tuple[str, ...]
    """Sentences around a word; the vector of a class is the mean over all of its sentences."""

    @property
    def texts(self) -> list[list[str]]:
        """The texts of each class."""
        return [[template.replace(PLACE, word) for template in self.templates for word in own] for own in self.words]


def words_for(classes: Sequence[str], named: bool, path: str | None, label: str, by_position: bool = False) -> Words:
    """Return words for the classes of a label, in the order of the manifest.

    Args:
        classes: names of the classes, or numbers.
        named: whether the manifest names them.
        path: file of words; None: the names themselves.
        label: name of the label.
        by_position: the file names classes without names in the order of their numbers.

    Raises:
        ConfigError: as ``read_words``; if a class has no words, or there are numbers alone.
    """
    if path is None:
        if not named:
            raise ConfigError(f"label {label}: the manifest does not name its classes, so nothing reads them; set prompt.words")
        names = _texts(list(classes), f"label {label}: names of classes, in place of which prompt.words has others")
        return Words(names, tuple((name,) for name in names), (PLACE,))
    words = read_words(path)
    if not named and by_position and len(words.classes) == len(classes):
        return words
    places = {name: place for place, name in enumerate(words.classes)}
    bare = [name for name in classes if name not in places]
    if bare:
        raise ConfigError(
            f"prompt.words {one_line(path)}: has no words for class '{one_line(bare[0], 60)}' of label {label}; "
            + did_you_mean(bare[0], words.classes, "add them" if named else "add them, or set data.classes_by_position")
        )
    return Words(tuple(classes), tuple(words.words[places[name]] for name in classes), words.templates)


def read_words(path: str | Path) -> Words:
    """Return the classes of a file: JSON ``{"classes": [...], "templates": ["a video of {}", ...]}``, a JSON list of names, or a
    plain text with a name a line. Classes may be an object, ``{"0": "zero", "cat": ["cat", "kitten"]}``: names and their words.

    Raises:
        ConfigError: in one line, for a file that is none of these, a name or template that is empty, too long, or no Unicode, a
            name or key that stands twice, two classes of the same words, or a template without ``{}`` or with more in braces.
    """
    path = Path(path)
    shown = one_line(path)
    if not path.exists():
        raise ConfigError(f"{shown}: there is no such file of words")
    value: Any = load_json(path, _keys_once) if seems_json(path) else _lines(path)
    if isinstance(value, list):
        value = {"classes": value}
    odd = [key for key in value if key not in _KEYS]
    if odd:
        hint = did_you_mean(odd[0], _KEYS, "keys are classes, templates")
        raise ConfigError(f"{shown}: key '{one_line(odd[0], 40)}' is not known; {hint}")
    named = value.get("classes")
    templates = _texts(value.get("templates", [PLACE]), f"{shown}: templates")
    classes = _texts(list(named) if isinstance(named, dict) else named, f"{shown}: classes")
    own = named.values() if isinstance(named, dict) else classes
    words = tuple(_texts(word, f"{shown}: classes") for word in own)
    _require_sense(classes, words, templates, shown)
    return Words(classes, words, templates)


def _lines(path: Path) -> list[str]:
    try:
        lines = read_list(path, "a list of words").removeprefix(b"\xef\xbb\xbf").decode().splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{one_line(path)}: is not UTF-8 at its byte {error.start + 1}") from None
    return [line.strip() for line in lines if line.strip()]


def _keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; of a key that stands twice, one would be lost silently."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{one_line(next(key for key in keys if keys.count(key) > 1), 60)}' stands twice")
    return found


def _texts(value: Any, where: str) -> tuple[str, ...]:
    try:
        return checked_captions(value)
    except ValueError as error:
        raise ConfigError(f"{where}: {str(error).replace('caption', 'text')}") from None


def _require_sense(classes: tuple[str, ...], words: tuple[tuple[str, ...], ...], templates: tuple[str, ...], shown: str) -> None:
    if not classes or not templates or not all(words):
        raise ConfigError(f"{shown}: names no {'templates' if classes and all(words) else 'classes' if not classes else 'words'}")
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise ConfigError(f"{shown}: names the class '{one_line(twice, 60)}' twice")
    bare = next((template for template in templates if PLACE not in template), None)
    if bare is not None:
        raise ConfigError(f"{shown}: template '{one_line(bare, 60)}' has no {PLACE}, in whose place the name of a class stands")
    odd = next((found for template in templates if (found := _OTHER_PLACE.search(template))), None)
    if odd is not None:
        raise ConfigError(
            f"{shown}: a template has {one_line(odd[0], 60)}, and {PLACE} alone is replaced, by the name of a class"
        )
    own: dict[tuple[str, ...], str] = {}
    for name, of_class in zip(classes, words, strict=True):
        if (other := own.setdefault(tuple(sorted(of_class)), name)) != name:
            raise ConfigError(f"{shown}: classes '{one_line(other, 60)}' and '{one_line(name, 60)}' have the same words")
    count = sum(map(len, words)) * len(templates)
    if count > MOST_TEXTS:
        raise ConfigError(f"{shown}: {count:,} texts, words in templates, are more than {MOST_TEXTS:,}")
