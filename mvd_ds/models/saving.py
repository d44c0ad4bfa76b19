"""Models written in the formats of others, and what is said where one cannot hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.models.formats import LAYOUTS, Network
from mvd_ds.models.formats.hf_config import hugging_face_config, hugging_face_processor, timm_config
from mvd_ds.models.formats.own import FORMAT, description
from mvd_ds.models.formats.writing import parts_of, to_layout, write_pickled
from mvd_ds.models.weights import write_folder

#: Epsilon that published code of MAE, VideoMAE and MVD builds its norms with.
PUBLISHED_EPS = 1e-6
#: Formats that ``--to`` takes: name -> what is written.
WRITTEN = {
    FORMAT: "folder: model.safetensors and config.json, what teachers.NAME.weights takes",
    "mvd": "file: a student for the published MVD code ({'model': ...}, frozen tables included)",
    "mvd_finetuned": "file: a classifier for the published MVD code",
    "videomae": "file: a pretraining model for the published VideoMAE code",
    "videomae_finetuned": "file: a classifier for the published VideoMAE code",
    "mae": "file: an image encoder for the published MAE code",
    "mae_pretraining": "file: an image encoder and its decoder for the published MAE code",
    "vjepa2": "file: an encoder for the published V-JEPA 2 code",
    "huggingface": "folder: a VideoMAE (pretraining, encoder, classifier), ViTMAE (pretraining, encoder) or V-JEPA 2, as fits",
    "huggingface_encoder": "folder: VideoMAEModel, ViTMAEModel or VJEPA2Model, the encoder alone of any model",
    "timm": "folder: a timm image ViT, timm.create_model('local-dir:FOLDER')",
}
#: Keys and prefix of names in files of some formats, where they are not ``model`` and none.
WRAPPED = {"vjepa2": (("encoder", "target_encoder"), "module.backbone.")}


def written_layout(format: str, network: Network) -> str:
    """Return the layout behind a name of ``--to``.

    Raises:
        ConfigError: if it is not written.
    """
    if format in ("huggingface", "huggingface_encoder"):
        if network.encoder.position.startswith("rope"):
            return "hf_vjepa2"
        family = "hf_vitmae" if network.encoder.kind == "image" else "hf_videomae"
        if format == "huggingface_encoder":
            return family
        return family + ("_classifier" if network.classifier else "_pretraining" if network.outputs else "")
    if format in WRITTEN or format.startswith(("hf_videomae", "hf_vitmae", "hf_vjepa2")):
        return format
    raise ConfigError(f"format '{format}' is not written; formats are {', '.join(WRITTEN)}")


class Written(NamedTuple):
    """A model in the layout of others, before it is written."""

    tensors: dict[str, Tensor]
    config: dict[str, Any] | None
    """``config.json``; None: a pickled file."""
    beside: dict[str, dict[str, Any]]
    """More JSON files by name."""
    left_out: list[str]
    """Names of tensors that have no place there and are none of its business."""
    notes: list[str]
    """Sentences on what readers will compute otherwise."""


def save_as(
    state: Mapping[str, Tensor], network: Network, path: Path, format: str, origin: str, classes: Sequence[str] = ()
) -> list[str]:
    """Write a model, aside and then renamed; what is lost or will be computed otherwise comes back as sentences.

    Args:
        state: state dict of a whole model, names of an encoder with ``encoder.`` in front; types are kept.
        network: its description.
        path: file or folder to write, as the format has it.
        format: a name of ``WRITTEN``.
        origin: names the source in messages and in our own description.
        classes: names of a classifier's classes, for formats that hold them.

    Raises:
        ConfigError: if the format cannot hold the model, with every part and with what can; or the path cannot be written.
    """
    name = written_layout(format, network)
    if name == FORMAT:
        if network.heads:
            raise ConfigError(
                f"{origin}: the folder of its run alone says what its heads are ({', '.join(network.heads)}); copy it"
            )
        config = description(network.encoder, network.decoder, network.classifier, network.clip, origin)
        write_folder(path, state, config, {"config": json.dumps(config)})
        return []
    try:
        written = _lay_out(name, state, network, origin, classes)
    except ConfigError as error:
        raise ConfigError(f"{error}; {_offer(state, network, name)}") from None
    notes = list(written.notes)
    if written.left_out:
        notes.insert(0, f"left out, '{name}' holds an encoder alone: {', '.join(parts_of(written.left_out))}")
    if written.config is None:
        write_pickled(path, written.tensors, *WRAPPED.get(name, ()))
    else:
        write_folder(path, written.tensors, written.config, {"format": "pt"}, described=written.beside)
    return notes


def _lay_out(name: str, state: Mapping[str, Tensor], network: Network, origin: str, classes: Sequence[str] = ()) -> Written:
    """Return a model as layout ``name`` has it.

    Raises:
        ConfigError: if there is no such layout, or it cannot hold the model.
    """
    if name not in LAYOUTS:
        raise ConfigError(f"{origin}: '{name}' cannot hold this model: there is no such network in transformers")
    layout = LAYOUTS[name]
    if network.heads and layout.model == "predictor":
        raise ConfigError(
            f"{origin}: '{name}' holds decoders of one shape for masked tokens; this one has others ({', '.join(network.heads)})"
        )
    tensors, left_out = to_layout(layout, state, network, origin)
    if name == "timm":
        return Written(tensors, timm_config(network, origin), {}, left_out, [])
    if name.startswith("hf_"):
        config, notes = hugging_face_config(layout, network, classes)
        pixels = hugging_face_processor(layout, network)
        return Written(tensors, config, {"preprocessor_config.json": pixels} if pixels else {}, left_out, notes)
    notes, eps = [], network.encoder.norm_eps
    if eps != PUBLISHED_EPS:
        notes.append(f"readers of '{name}' compute norms with epsilon {PUBLISHED_EPS:g}; this model has {eps:g}")
    return Written(tensors, None, {}, left_out, notes)


def _offer(state: Mapping[str, Tensor], network: Network, refused: str) -> str:
    """Return which formats hold a model that one cannot hold, and the graphs that ``export`` writes."""
    whole, encoder = [FORMAT], list[str]()
    for format in WRITTEN:
        name = written_layout(format, network)
        if name in (FORMAT, refused):
            continue
        try:
            left_out = _lay_out(name, state, network, "").left_out
        except ConfigError:
            continue
        (encoder if left_out else whole).append(format)
    alone = f"; its encoder alone: {', '.join(encoder)}" if encoder else ""
    output = "logits" if network.classifier else "features"
    graph = f"`export SOURCE FOLDER --graph onnx` writes its {output} for any runtime"
    return f"formats that hold it: {', '.join(whole)}{alone}; {graph}"
