"""The captions of the sample set: both labels in words, and phrasings that training never shows."""

from pathlib import Path

from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.synthetic.motion import HOW
from mvd_ds.data.synthetic.phrasing import GRAMMAR, MOTIONS, NUMERALS, WORDS, captions_of
from mvd_ds.files import read_json


def test_no_phrasing_is_in_both_grammars() -> None:
    assert not set(GRAMMAR["train"]) & set(GRAMMAR["val"])
    held_out = {template.replace("{}", word) for templates in WORDS.values() for template in templates for word in NUMERALS}
    seen = {caption for index in range(200) for caption in captions_of(1, "train", index, index % 10, index % 8)}
    assert not held_out & seen
    for what, word in enumerate(NUMERALS):
        for how, motion in enumerate(MOTIONS):
            assert all(word in text and motion in text for text in captions_of(1, "val", 0, what, how))


def test_the_sets_with_captions_are_those_without(videos: Path) -> None:
    for split in ("train", "val"):
        plain, told = read_manifest(videos / f"{split}.txt"), read_manifest(videos / f"{split}.jsonl")
        assert (plain.labels == told.labels).all() and plain.class_names == told.class_names
        assert [ref.path for ref in plain.refs] == [ref.path for ref in told.refs]
        for index, (what, how) in enumerate(told.labels.tolist()):
            assert list(told.refs.captions(index)) == captions_of(1, split, index, what, how)
    assert read_json(videos / "words_how.json")["classes"] == dict(zip(HOW, MOTIONS, strict=True))
