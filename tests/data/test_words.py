"""Files of words: every form gives the same classes, and every fault is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvd_ds.config import ConfigError
from mvd_ds.data.words import read_words, words_for


def test_every_form_is_read(tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_text("a cat\n\n  dog, ü \n", encoding="utf-8")
    assert read_words(path).texts == [["a cat"], ["dog, ü"]]
    path.write_text('["a cat", "dog, ü"]', encoding="utf-8")
    assert read_words(path).classes == ("a cat", "dog, ü")
    path.write_text('{"classes": {"0": "zero", "1": ["one", "a one"]}, "templates": ["a {}", "{}: {}"]}')
    words = read_words(path)
    assert words.classes == ("0", "1")
    assert words.texts == [["a zero", "zero: zero"], ["a one", "a a one", "one: one", "a one: a one"]]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "classes: |names no classes"),
        (b'{"classes": ["a"], "templates": ["a video"]}', "template 'a video' has no {}, in whose place"),
        (b'{"classes": ["a"], "template": ["{}"]}', "key 'template' is not known; did you mean 'templates'"),
        (b'{"classes": ["a", "a"]}', "names the class 'a' twice"),
        (b'{"classes": ["a", " "]}', "classes: a text is empty"),
        (b'{"classes": {"a": []}}', "names no words"),
        (b'{"classes": ["a"], "templates": []}', "names no templates"),
        (b'{"templates": ["{}"]}', "classes: text is None, not a text or a list of texts"),
        (b'["\\ud800"]', "half of a character"),
        (b"caf\xe9\n", "is not UTF-8 at its byte 4"),
        (b"x" * 100_000, "has 100,000 bytes, and at most 65,536 are taken"),
        (b"[1]", "classes: text is"),
        (b'{"classes": {"0": "zero", "0": "one"}}', "the key '0' stands twice"),
        (b'{"classes": {"a": ["cat", "dog"], "b": ["dog", "cat"]}}', "classes 'a' and 'b' have the same words"),
        (b'{"classes": ["a"], "templates": ["{} with {name}"]}', r"a template has \{name\}, and {} alone is replaced"),
        (b'["a\\u0000b"]', "text 'a.*b' holds a NUL"),
        (b"[", "cannot be read as JSON"),
        (b"PK\x03\x04\x00\x00", "zip archive"),
    ],
)
def test_a_fault_is_one_line(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "words.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=fault) as caught:
        read_words(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value) and len(str(caught.value)) < 400


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.txt: there is no such file of words"):
        read_words(tmp_path / "nothing.txt")


@pytest.mark.parametrize(
    ("name", "fault"),
    [("\udcff.mp4", "holds half of a character"), (" ", "is empty"), ("x" * 10_000_000, "has 10,000,000 bytes")],
    ids=["bytes", "blank", "long"],
)
def test_a_class_that_cannot_be_read_by_its_name_is_one_line(name: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=f"label pets: names of classes, in place of which prompt.words has others: .*{fault}"):
        words_for(["cat", name], True, None, "pets")
