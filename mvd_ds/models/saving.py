"""Models in the formats of others: which are written, and what stands beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.models.formats import LAYOUTS, Network
from mvd_ds.models.formats.own import FORMAT, description
from mvd_ds.models.formats.writing import hugging_face_config, timm_config, to_layout, write_pickled
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
    "huggingface": "folder: VideoMAEForPreTraining, VideoMAEModel or VideoMAEForVideoClassification, by what the model is",
    "timm": "folder: a timm image ViT, timm.create_model('local-dir:FOLDER')",
}


def written_layout(format: str, network: Network) -> str:
    """The layout behind a name of ``--to``.

    Raises:
        ConfigError: if it is not written.
    """
    if format == "huggingface":
        kind = "_classifier" if network.classifier else "_pretraining" if network.outputs else ""
        return f"hf_videomae{kind}"
    if format in WRITTEN or format.startswith("hf_videomae"):
        return format
    raise ConfigError(f"format '{format}' is not written; formats are {', '.join(WRITTEN)}")


def save_as(state: Mapping[str, Tensor], network: Network, path: Path, format: str, origin: str) -> list[str]:
    """Write a model, aside and then renamed; what is lost or will be computed otherwise comes back as sentences.

    Args:
        state: state dict of a whole model, names of an encoder with ``encoder.`` in front; types are kept.
        network: its description.
        path: file or folder to write, as the format has it.
        format: a name of ``WRITTEN``.
        origin: names the source in messages and in our own description.

    Raises:
        ConfigError: if the format cannot hold the model or the path cannot be written.
    """
    name = written_layout(format, network)
    if name not in LAYOUTS:
        raise ConfigError(f"format '{format}' is not written; formats are {', '.join(WRITTEN)}")
    if name == FORMAT:
        config = description(network.encoder, network.decoder, network.classifier, network.clip, origin)
        write_folder(path, state, config, {"config": json.dumps(config)})
        return []
    if network.classifier is not None and network.classifier["pooling"].get("kind", "mean") != "mean":
        raise ConfigError(f"format '{format}' holds classifiers that pool by mean; {origin} pools by another; write 'mvd_ds'")
    layout = LAYOUTS[name]
    tensors, left_out = to_layout(layout, state, network, origin)
    notes = [f"left out, '{name}' holds an encoder alone: {len(left_out)} tensors ({left_out[0]}, ...)"] if left_out else []
    if name == "timm":
        write_folder(path, tensors, timm_config(network, origin), {"format": "pt"})
    elif name.startswith("hf_videomae"):
        config, differing = hugging_face_config(layout, network)
        write_folder(path, tensors, config, {"format": "pt"})
        notes += differing
    else:
        if network.encoder.norm_eps != PUBLISHED_EPS:
            notes.append(
                f"readers of '{name}' compute norms with epsilon {PUBLISHED_EPS:g}; this model has {network.encoder.norm_eps:g}"
            )
        write_pickled(path, tensors)
    return notes
