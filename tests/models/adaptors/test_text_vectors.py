"""Text vectors: what a file has to hold, and one line for every other one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mvd_ds.config import ConfigError
from mvd_ds.models.adaptors.text_vectors import SCALE, read_text_vectors

ROWS = torch.tensor([[3.0, 4.0], [0.0, -2.0]])


def written(folder: Path, tensors: Any = None, **facts: Any) -> Path:
    path = folder / "text.safetensors"
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    save_file({"text": ROWS} if tensors is None else tensors, path, texts)
    return path


def test_rows_have_names_and_length_one(tmp_path: Path) -> None:
    found = read_text_vectors(written(tmp_path, {"any name": ROWS.half()}, classes=["a cat", "a dog"]))
    assert found.classes == ("a cat", "a dog") and found.scale == SCALE
    assert found.vectors.dtype == torch.float32 and found.vectors.tolist() == [pytest.approx([0.6, 0.8]), [0.0, -1.0]]
    assert read_text_vectors(written(tmp_path, classes=["a", "b"], scale=10)).scale == 10.0


@pytest.mark.parametrize(
    ("tensors", "facts", "words"),
    [
        (None, {}, "its metadata has no list of classes; write it by save_file"),
        (None, {"classes": "a, b"}, "classes: it takes a JSON list of names, got a, b; use save_file"),
        (None, {"classes": ["a", 2]}, "classes: it takes a JSON list of names"),
        (None, {"classes": ["a"]}, "1 names of classes for 2 rows"),
        (None, {"classes": ["a", "a"]}, "class 'a' has two rows"),
        (None, {"classes": ["a", "b"], "scale": "much"}, "scale: it takes a number above 0, got much"),
        (None, {"classes": ["a", "b"], "scale": 0}, "scale: it takes a number above 0, got 0"),
        (
            {"text": ROWS, "bias": ROWS[0].clone()},
            {"classes": ["a", "b"]},
            r"one tensor (classes, D) of floats; it holds bias (2,), text",
        ),
        ({"text": ROWS[0]}, {"classes": ["a", "b"]}, "it holds text (2,)"),
        ({"text": ROWS * torch.tensor([[1.0], [0.0]])}, {"classes": ["a", "b"]}, "row 1 has length 0"),
        ({"text": ROWS.log()}, {"classes": ["a", "b"]}, "row 1 has length nan"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, tensors: Any, facts: dict[str, Any], words: str) -> None:
    path = written(tmp_path, tensors, **facts)
    with pytest.raises(ConfigError) as error:
        read_text_vectors(path)
    assert words in str(error.value) and str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_another_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a cat\n")
    with pytest.raises(ConfigError, match="this is none: it is a text file"):
        read_text_vectors(tmp_path / "text.txt")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_text_vectors(tmp_path / "nothing.safetensors")
