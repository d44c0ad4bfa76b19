"""Texts as rows of numbers: bytes, and files of the package tokenizers."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from mvd_ds.config import ConfigError, TextSettings
from mvd_ds.data.tokens import Tokens


def test_bytes() -> None:
    tokens = Tokens(TextSettings(context=8))
    assert tokens.encode("aü").tolist() == [256, 97, 0xC3, 0xBC, 257, 258, 258, 258]
    assert tokens.encode("x" * 10_000).tolist() == [256, *[120] * 6, 257], "cut, and its end is kept"
    assert TextSettings().vocabulary == 259


def test_a_file_of_tokenizers(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = Tokenizer(WordLevel({"[unk]": 0, "three": 1, "circles": 2}, unk_token="[unk]"))
    words.pre_tokenizer = Whitespace()
    words.add_special_tokens(["[end]"])
    words.enable_truncation(2)
    words.save(str(tmp_path / "tokenizer.json"))
    settings = TextSettings(context=8, tokenizer=str(tmp_path / "tokenizer.json"))
    assert settings.vocabulary == 4 + 3
    tokens = Tokens(settings)
    wanted = [4, 1, 2, 0, 1, 5, 6, 6]
    assert tokens.encode("three circles what three").tolist() == wanted
    assert pickle.loads(pickle.dumps(tokens)).encode("three circles what three").tolist() == wanted


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is not JSON"),
        ('{"a": 1}', "is no tokenizer.json of the package tokenizers"),
        ('{"model": {"vocab": {"a": 0}}}', "language.text.tokenizer .*tokenizer.json: "),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, content: str | None, fault: str) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=fault) as caught:
        Tokens(TextSettings(tokenizer=str(path)))
    assert "\n" not in str(caught.value) and str(caught.value).startswith("language.text.tokenizer")
