"""``export SOURCE FOLDER`` writes a classifier or an encoder as one folder that needs nothing else, and as graphs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mvd_ds.config import ConfigError, dump
from mvd_ds.files import json_line
from mvd_ds.models.adaptors.folder import ADAPTORS_NAME, described, tensors_of
from mvd_ds.models.classifiers.adaptation import ADAPTATION_NAME, read_adaptation, save_adapted
from mvd_ds.models.classifiers.classifier import Classifier
from mvd_ds.models.classifiers.classifier_folder import save_classifier
from mvd_ds.models.formats.containers import model_of
from mvd_ds.models.pixel_encoder import save_encoder
from mvd_ds.models.prompts.file import prompts_file
from mvd_ds.models.text.captioned import LANGUAGE_NAME, exported_language, knows_words, open_captioned
from mvd_ds.models.text.own_files import text_files
from mvd_ds.tools.checkpoints import whole_classifier
from mvd_ds.tools.export_adaptors import PixelAdaptors, adaptors_of, tell_adaptors
from mvd_ds.tools.export_prompts import export_prompts
from mvd_ds.tools.graphs import BATCHES, GRAPHS, Traced, write_graph
from mvd_ds.training.console import say
from mvd_ds.video_classifier import VideoClassifier, VideoEncoder, open_for_videos


def export(source: Path, folder: Path, graphs: list[str], format: str | None = None, adaptors: list[str] | None = None) -> None:
    """Write ``folder``: ``model.safetensors`` and ``config.json`` with names, clips and normalisation, and the ``graphs``.

    ``mvd_ds.load(folder)`` opens it. A graph takes uint8 clips (B, C, T, H, W) for any B and gives logits (B, classes),
    or features (B, D) of an encoder and the answers of its adaptors; it is compared with the original before anything is
    written.

    Args:
        source: folder of a run or of a model, ``adaptation.safetensors`` of one, prompts, or what ``convert`` reads.
        folder: to write; one that holds something else is not touched.
        graphs: names of ``GRAPHS``.
        format: format of the source where its content does not tell.
        adaptors: outputs of a student whose heads stay on its encoder, all with an empty list; None: none.

    Raises:
        ConfigError: if there is no model in the source, the folder is taken, or a graph computes something else.
    """
    source = model_of(source)
    if folder.resolve() == source.resolve():
        raise ConfigError(f"{folder}: is the source itself; give another folder")
    is_model = (folder / "config.json").is_file()
    if folder.is_file() or (folder.is_dir() and not is_model and any(path.name != "control" for path in folder.iterdir())):
        raise ConfigError(f"{folder}: exists and is no model folder; give another")
    if format is None and adaptors is None and (prompts := prompts_file(source)) is not None:
        return export_prompts(prompts, folder, graphs, lambda towers, target: export(towers, target, []))
    opened = _open(source, format)
    if adaptors is not None:
        _adapt(opened, source, adaptors)
    captioned = open_captioned(source)[0] if isinstance(opened, VideoEncoder) and knows_words(source) else None
    folder.parent.mkdir(parents=True, exist_ok=True)
    traced = _traced(opened)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        found = {GRAPHS[name][0]: write_graph(name, traced, Path(place)) for name in graphs}
        beside = {"exported_from": str(source), "graphs": found}
        if isinstance(opened, VideoClassifier):
            assert isinstance(opened.network.classifier, Classifier)
            model = opened.network.classifier
            save_classifier(folder, model, model.state_dict(), opened.card, beside)
        else:
            kept = {} if opened.adapted is None else {ADAPTORS_NAME: tensors_of(opened.adapted)}
            beside |= {} if opened.adapted is None else described(opened.adapted.adaptors)
            copied: dict[str, bytes] = {}
            if captioned is not None:
                described_text, kept[LANGUAGE_NAME] = exported_language(captioned)
                beside, copied = beside | described_text, text_files(captioned.language.settings)
            save_encoder(folder, opened.network.encoder, opened.preprocessing, beside, kept, copied)
        for path in sorted(Path(place).iterdir()):
            path.rename(folder / path.name)
    for name, facts in found.items():
        far = f"{facts['largest_difference']:.1e}"
        say(f"{folder / name}: {' and '.join(traced.outputs)} differ from the original's by {far} at most, batches {BATCHES}")
    if isinstance(opened, VideoClassifier):
        way = "value" if opened.task == "regression" else "classify"
        say(f"{folder}: {opened!r}; mvd_ds.load('{folder}').{way}('video.mp4')")
    else:
        say(f"{folder}: an encoder of clips; mvd_ds.load('{folder}').features('video.mp4')")
        if opened.adapted is not None:
            tell_adaptors(opened.adapted, folder)
        if captioned is not None:
            say(f"{folder}: its text tower reads words: python -m mvd_ds classify {folder} VIDEO --words FILE")


def _open(source: Path, format: str | None) -> VideoClassifier | VideoEncoder:
    """Open a model; a file of trained tensors alone is joined with the weights that they were trained beside.

    Raises:
        ConfigError: if it is no model, or those weights are gone.
    """
    if source.name != ADAPTATION_NAME:
        return open_for_videos(source, format)
    found = read_adaptation(source)
    model = whole_classifier(found.recipe, len(found.card.classes), found.tensors, str(source))
    with tempfile.TemporaryDirectory() as place:
        save_adapted(Path(place) / "model", model, model.state_dict(), found.card, {}, found.recipe.adaptation)
        return open_for_videos(Path(place) / "model")


def _adapt(opened: VideoClassifier | VideoEncoder, source: Path, names: list[str]) -> None:
    """Put the adaptors of a run on its encoder.

    Raises:
        ConfigError: if there are none.
    """
    if isinstance(opened, VideoClassifier):
        raise ConfigError(f"--adaptors: {source} is a classifier, which has no heads of teachers; give a run of distill")
    opened.adapted = adaptors_of(source, names)
    opened.adapted.requires_grad_(False)
    opened.network.encoder = opened.adapted.encoder


def _traced(opened: VideoClassifier | VideoEncoder) -> Traced:
    facts = {"preprocessing": json_line(dump(opened.preprocessing))}
    if isinstance(opened, VideoClassifier):
        facts |= {"classes": json_line(list(opened.classes)), "label": opened.label}
        facts |= {name: json_line(value) for name, value in opened.card.described().items()}
        outputs = {"logits": "(B, classes)"}
    else:
        outputs, adapted = {"features": "(B, D)"}, opened.adapted
        if adapted is not None:
            outputs |= {name: "(B, width)" if card.is_summary else "(B, N, width)" for name, card in adapted.adaptors.items()}
            network = PixelAdaptors(adapted, opened.preprocessing).eval()
            return Traced(network, outputs, opened.preprocessing.clip, facts)
    return Traced(opened.network, outputs, opened.preprocessing.clip, facts)
