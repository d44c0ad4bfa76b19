"""Numbers that no store holds, and files that are another cache's: one line, and nothing of them is taken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from mvd_ds.config import ConfigError
from mvd_ds.data.cached.files import CachedRows, file_name
from mvd_ds.runs.caching import filling
from mvd_ds.runs.caching.cache_targets import cache_targets
from mvd_ds.training.cached_targets import decode, encode
from shrinking import shipped

SMALL = ["data.clip.flip=0", "targets.clips_per_file=8"]


@pytest.mark.parametrize("store", ["fp32", "fp16", "bf16", "int8"])
def test_a_token_of_zeros_and_one_next_to_nothing_come_back(store: str) -> None:
    values = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1e-38, -1e-38, 0.0, 5e-39], [3.0, -1.5, 0.0, 0.75]])
    stored, scale = encode(values, store, 2)
    found = decode(stored, scale, torch.float32)
    assert torch.equal(found[0], values[0]) and (found - values).abs().max() < 0.02 and found.isfinite().all()
    assert (found[1] - values[1]).abs().max() < 2e-38


@pytest.mark.parametrize(
    ("number", "store", "said"),
    [
        (1e5, "fp16", "are not finite in fp16; choose targets.store=bf16"),
        (3.4e38, "bf16", "are not finite in bf16; choose targets.store=fp32"),
        (float("nan"), "int8", "are not finite; use engine.precision=fp32"),
        (float("inf"), "fp32", "are not finite; use engine.precision=fp32"),
    ],
)
def test_the_clip_of_a_number_that_no_store_holds_is_named(
    shrunk: list[str], videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: float, store: str, said: str
) -> None:
    recipe = shipped(
        [*shrunk, *SMALL, f"data.manifest={videos / 'val.txt'}", f"targets.cache={tmp_path}", f"targets.store={store}"]
    )

    def overflowing(*arguments: object) -> dict[str, torch.Tensor]:
        found = {"image": torch.ones(2, 64, 64), "video": torch.ones(2, 64, 64)}
        found["video"][1, 5, 7] = number
        return found

    second = [line for line in (videos / "val.txt").read_text().splitlines() if not line.startswith("#")][1].split(" ")[0]
    with monkeypatch.context() as patch:
        patch.setattr(filling, "ask", overflowing)
        with pytest.raises(ConfigError) as refused:
            cache_targets(recipe, "run")
    assert str(refused.value).startswith(f"video: its teacher gives numbers of {videos / second} that {said}")
    assert not list(tmp_path.glob("*targets-*"))


def test_a_file_of_another_cache_or_of_another_place_is_not_taken(shrunk: list[str], videos: Path, tmp_path: Path) -> None:
    """Of the same shapes and sizes: other weights gave it, or other clips are in it."""
    own, other = tmp_path / "own", tmp_path / "other"
    listed = f"data.manifest={videos / 'val.txt'}"
    cache_targets(shipped([*shrunk, *SMALL, listed, f"targets.cache={own}"]), "run")
    cache_targets(shipped([*shrunk, *SMALL, listed, f"targets.cache={other}", "teachers.video.weights=random"]), "run")
    for source in (other / file_name(0), own / file_name(1)):
        kept = (own / file_name(0)).read_bytes()
        shutil.copy(source, own / file_name(0))
        rows = CachedRows(own)
        with pytest.raises(ConfigError, match=r"targets-00000\.safetensors: does not hold what .*index\.json says"):
            rows.read(0, 0, False, {})
        (own / file_name(0)).write_bytes(kept)
    CachedRows(own).read(0, 0, False, {})
