"""The small file of trained prompts, and the classifier that it makes of the frozen weights it belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mvd_ds.config import ConfigError, PreprocessingSettings, PromptSettings, TextSettings
from mvd_ds.files import folder_written_aside, one_line, write_json, written_aside
from mvd_ds.models.building import is_run_model, open_encoder
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard
from mvd_ds.models.formats.containers import CONFIG_NAME, PROMPTS_NAME, model_of
from mvd_ds.models.formats.strict import load_strictly
from mvd_ds.models.prompts.classifier import PromptedClassifier
from mvd_ds.models.prompts.head import PromptBase
from mvd_ds.models.prompts.table import PROMPTS, build_prompts
from mvd_ds.models.prompts.texts import ClassNames
from mvd_ds.models.text.captioned import Encode, NamedTexts, knows_words, open_captioned
from mvd_ds.models.weights import read_recipe

FORMAT = "mvd_ds prompts"
VERSION = 1
BESIDE = "."
"""Weights of prompts that are in the same folder."""
#: Endings of the files of a model's folder whose bytes are its weights.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz")

Tokenizer = Callable[[TextSettings], Encode]
"""Returns what makes rows of tokens for a text tower."""


class PromptCard(NamedTuple):
    """The description that stands in a file of prompts."""

    kind: str
    """The head: a row of ``PROMPTS``."""
    settings: PromptSettings
    weights: str
    """Path of the frozen weights, absolute; ``.`` for those in the same folder."""
    digest: str
    """Of the bytes of those weights."""
    names: ClassNames
    """All classes of the label, in words."""
    among: tuple[int, ...]
    """Numbers of the classes that were learnt."""
    preprocessing: PreprocessingSettings
    """Clips that the encoder is shown."""
    label: str
    """Label of the manifest."""


def open_base(
    weights: str, clip: tuple[int, int], names: ClassNames, tokenizer: Tokenizer, needs_words: bool, what: str
) -> PromptBase:
    """Return the frozen towers of some weights, or their encoder alone where no words are needed; fp32, on the CPU.

    Args:
        weights: model folder of a run, or for prompts of the encoder alone any encoder of ours.
        clip: frames, and side in pixels.
        names: the classes.
        tokenizer: makes rows of tokens for its text tower.
        needs_words: whether the head reads names.
        what: names the weights in messages.

    Raises:
        ConfigError: if they have no text tower and one is needed, or cannot be read.
    """
    if not needs_words:
        encoder = open_encoder(weights, *clip)
        return PromptBase(encoder.eval().requires_grad_(False), names)
    if not _reads_words(Path(weights)):
        raise ConfigError(
            f"{what} {one_line(weights)}: has no text tower, which reads the names of classes; give a model trained with language"
        )
    towers, learnt_by = open_captioned(weights)
    if clip != (learnt_by.clip.frames, learnt_by.clip.size_px):
        towers.encoder = open_encoder(model_of(Path(weights)), *clip)
    towers.eval().requires_grad_(False)
    return PromptBase(towers.encoder, names, towers, tokenizer(towers.language.settings.text))


def _reads_words(weights: Path) -> bool:
    """Return whether a folder, or a file of a run such as its average, has a text tower."""
    if weights.is_file():
        return is_run_model(weights) and read_recipe(weights).language is not None
    return knows_words(model_of(weights))


def names_of(named: NamedTexts, words: Sequence[Sequence[str]]) -> ClassNames:
    """Return the classes of a file of words: prompts stand beside the first word of each."""
    return ClassNames(tuple(named.classes), tuple(own[0] for own in words), tuple(map(tuple, named.texts)))


def save_prompts(file: Path, state: Mapping[str, Tensor], card: PromptCard, extra: Mapping[str, Any]) -> None:
    """Write trained prompts aside, then put them in place.

    Args:
        file: the file; its folder is made.
        state: parameters of the head, fp32.
        card: what they belong to.
        extra: JSON values kept beside.

    Raises:
        ConfigError: if it cannot be written.
    """
    values = {
        "format": FORMAT,
        "version": VERSION,
        **card._asdict(),
        "settings": card.settings.model_dump(mode="json", include=set(PromptSettings.model_fields)),
        "names": card.names._asdict(),
        "preprocessing": card.preprocessing.model_dump(mode="json", by_alias=True),
        **extra,
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(file) as aside:
            save_file({name: value.float().contiguous() for name, value in state.items()}, aside, {"prompts": json.dumps(values)})
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror or error}") from None


def save_prompts_folder(folder: Path, state: Mapping[str, Tensor], card: PromptCard, extra: Mapping[str, Any]) -> None:
    """Write a folder with the file of prompts, and a ``config.json`` that says what they tell; as ``save_prompts``."""
    config = {"format": FORMAT, "version": VERSION, "classes": list(card.names.classes), "label": card.label, **extra}
    try:
        with folder_written_aside(folder) as aside:
            save_prompts(aside / PROMPTS_NAME, state, card, extra)
            write_json(aside / CONFIG_NAME, config, sync=False)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror or error}") from None


def prompts_file(source: str | Path) -> Path | None:
    """Return the file of prompts that a path means: itself, or the one in a model's or a run's folder; None if it means none."""
    path = Path(source)
    places = [path] if path.is_file() else [path / PROMPTS_NAME, path / "model" / PROMPTS_NAME]
    return next((place for place in places if place.is_file() and _facts(place) is not None), None)


def read_card(file: Path) -> PromptCard:
    """Return what a file of prompts says of itself.

    Raises:
        ConfigError: if it is damaged, or of a later version.
    """
    try:
        values = json.loads(_facts(file) or "")
        if values["version"] > VERSION:
            raise ConfigError(f"{one_line(file)}: is of version {values['version']}, and this one reads {VERSION}")
        names = values["names"]
        return PromptCard(
            str(values["kind"]),
            PromptSettings.model_validate(values["settings"]),
            str(values["weights"]),
            str(values["digest"]),
            ClassNames(tuple(names["classes"]), tuple(names["words"]), tuple(map(tuple, names["texts"]))),
            tuple(map(int, values["among"])),
            PreprocessingSettings.model_validate(values["preprocessing"]),
            str(values["label"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{one_line(file)}: is no whole file of prompts: {one_line(error, 120)}; train them again") from None


def open_prompts(
    file: Path,
    tokenizer: Tokenizer,
    words: tuple[NamedTexts, Sequence[Sequence[str]]] | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[PromptedClassifier, ClassifierCard]:
    """Return the classifier of a file of prompts on the weights that they belong to, and its card; in ``eval()``, on the CPU.

    Args:
        file: the file.
        tokenizer: makes rows of tokens for the text tower.
        words: other classes than those that were learnt, with the words of each; None: the classes of the file.
        dtype: precision of towers and prompts; cosines are fp32.

    Raises:
        ConfigError: if the weights are gone or others, or the prompts have no answer for other classes.
    """
    card, where = read_card(file), one_line(file)
    weights = str(file.parent) if card.weights == BESIDE else card.weights
    if not Path(weights).exists():
        raise ConfigError(f"{where}: belongs to the weights {one_line(weights)}, which are not there; put them back")
    if digest_of(weights) != card.digest:
        raise ConfigError(f"{where}: belongs to other weights than {one_line(weights)} holds now; train the prompts again")
    names = card.names if words is None else names_of(*words)
    clip, kind = card.preprocessing.clip, PROMPTS.get(card.kind)
    if kind is None:
        raise ConfigError(f"{where}: holds prompts '{one_line(card.kind, 40)}'; known are {', '.join(PROMPTS)}")
    base = open_base(weights, (clip.frames, clip.size_px), names, tokenizer, kind.needs_words, where)
    head = build_prompts(card.kind, base, card.settings, 0)
    if words is not None and not head.answers_new:
        raise ConfigError(
            f"{where}: {card.kind} of these settings has no answer for classes that it has not learnt; remove words"
        )
    tensors = _tensors(file)
    load_strictly(head, tensors, where)
    among = None if words is not None or head.answers_new else card.among
    chosen = names.classes if among is None else tuple(names.classes[number] for number in among)
    model = PromptedClassifier(base, head, among).eval().requires_grad_(False).to(dtype)
    return model, ClassifierCard(chosen, card.preprocessing, card.label)


def digest_of(weights: str | Path) -> str:
    """Return the sha256 of a file of weights, or of those in a model folder."""
    path = model_of(Path(weights))
    files = [path] if path.is_file() else sorted(part for part in path.iterdir() if part.suffix in _WEIGHTS)
    files = [part for part in files if part.name != PROMPTS_NAME]
    found = hashlib.sha256()
    for part in files:
        with part.open("rb") as opened:
            found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()


def _facts(file: Path) -> str | None:
    """Return the description in the head of a file of prompts; None for any other file."""
    try:
        with safe_open(file, framework="pt") as stored:
            facts: str | None = (stored.metadata() or {}).get("prompts")
    except (OSError, SafetensorError, ValueError):
        return None
    return facts


def _tensors(file: Path) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as stored:
        return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
