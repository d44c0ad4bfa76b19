"""The part of ``export`` that writes trained prompts with the frozen towers they belong to, as one folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file

from mvd_ds.config import ConfigError
from mvd_ds.data.tokens import text_encoder
from mvd_ds.models.formats.containers import PROMPTS_NAME
from mvd_ds.models.prompts.file import BESIDE, digest_of, open_prompts, read_card, save_prompts
from mvd_ds.training.console import say


def export_prompts(file: Path, folder: Path, graphs: list[str], export_towers: Callable[[Path, Path], None]) -> None:
    """Write a folder with the towers of a file of prompts, and the prompts beside them.

    Args:
        file: the prompts.
        folder: to write.
        graphs: must be empty.
        export_towers: writes the model in a folder as another folder.

    Raises:
        ConfigError: if graphs are asked for, or the towers are gone or others.
    """
    if graphs:
        raise ConfigError(f"{file}: prompts have no graph, as their text tower reads names anew; leave out --graph")
    card = read_card(file)
    if card.weights == BESIDE:
        raise ConfigError(f"{file.parent}: needs nothing else as it is; copy it")
    open_prompts(file, text_encoder)  # what is wrong is said before anything is written
    export_towers(Path(card.weights), folder)
    save_prompts(folder / PROMPTS_NAME, load_file(file), card._replace(weights=BESIDE, digest=digest_of(folder)), {})
    say(f"{folder}: {card.kind} for {len(card.among)} classes, with its towers: python -m mvd_ds classify {folder} VIDEO")
