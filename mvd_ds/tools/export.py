"""``export SOURCE FOLDER`` writes a classifier or an encoder as one folder that needs nothing else, and as graphs."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvd_ds.config import ClipSettings, ConfigError, dump
from mvd_ds.files import json_line
from mvd_ds.models.classifier_folder import ClassifierCard, save_classifier
from mvd_ds.models.pixel_encoder import save_encoder
from mvd_ds.training.console import say
from mvd_ds.video_classifier import VideoClassifier, VideoEncoder, open_for_videos

#: Largest difference of a logit from the original's, over the largest logit, that is rounding: other kernels, fp32.
TOLERANCE = 1e-4
#: Clips of the examples that graphs are compared on; none is the number that they were traced with.
BATCHES = (1, 3)
TRACED_BATCH = 2
#: Above this, the weights of an ONNX file stand beside it: protobuf holds 2 GiB.
LARGEST_ONNX_BYTES = 1_800_000_000
LARGEST_BATCH = 4096


def export(source: Path, folder: Path, graphs: list[str], format: str | None = None) -> None:
    """Write ``folder``: ``model.safetensors`` and ``config.json`` with names, clips and normalisation, and the ``graphs``.

    ``mvd_ds.load(folder)`` opens it. A graph takes uint8 clips (B, C, T, H, W) for any B and gives logits (B, classes),
    or features (B, D) of an encoder; it is compared with the original before anything is written.

    Args:
        source: folder of a run or of a model, or a model in any format that ``convert`` reads.
        folder: to write; one that holds something else is not touched.
        graphs: names of ``GRAPHS``.
        format: format of the source where its content does not tell.

    Raises:
        ConfigError: if there is no model in the source, the folder is taken, or a graph computes something else.
    """
    source = source / "model" if (source / "model").is_dir() else source
    if folder.resolve() == source.resolve():
        raise ConfigError(f"{folder}: is the source itself; give another folder")
    if folder.exists() and not (folder / "config.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists and is no model folder; give another")
    opened = open_for_videos(source, format)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        found = {GRAPHS[name][0]: _write_graph(name, opened, Path(place)) for name in graphs}
        beside = {"exported_from": str(source), "graphs": found}
        if isinstance(opened, VideoClassifier):
            card = ClassifierCard(opened.classes, opened.preprocessing, opened.label)
            save_classifier(folder, opened.network.classifier, opened.network.classifier.state_dict(), card, beside)
        else:
            save_encoder(folder, opened.network.encoder, opened.preprocessing, beside)
        for path in sorted(Path(place).iterdir()):
            path.rename(folder / path.name)
    for name, facts in found.items():
        far = f"{facts['largest_difference']:.1e}"
        say(f"{folder / name}: {_output(opened)} differ from the original's by {far} at most, batches {BATCHES}")
    if isinstance(opened, VideoClassifier):
        say(f"{folder}: {len(opened.classes)} classes; mvd_ds.load('{folder}').classify('video.mp4')")
    else:
        say(f"{folder}: an encoder of clips; mvd_ds.load('{folder}').features('video.mp4')")


def _output(opened: VideoClassifier | VideoEncoder) -> str:
    return "logits" if isinstance(opened, VideoClassifier) else "features"


def _write_graph(name: str, opened: VideoClassifier | VideoEncoder, place: Path) -> dict[str, Any]:
    """Write one graph into ``place`` and hold it against the network."""
    file, packages, write = GRAPHS[name]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"--graph {name}: needs {', '.join(missing)}; pip install {' '.join(packages)}")
    network, clip, output = opened.network, opened.preprocessing.clip, _output(opened)
    with _quiet():
        run = write(opened, _example(clip, TRACED_BATCH), place / file)
        largest = 0.0
        for batch in BATCHES:
            clips = _example(clip, batch)
            expected = network(clips)
            scale = float(expected.abs().max()) or 1.0
            largest = max(largest, float((run(clips) - expected).abs().max()) / scale)
    if not largest <= TOLERANCE:
        raise ConfigError(f"--graph {name}: its {output} differ from the original's by {largest:.1e}, more than {TOLERANCE:.0e}")
    shape = "logits (B, classes)" if output == "logits" else "features (B, D)"
    return {"input": "uint8 (B, 3, T, H, W)", "output": shape, "largest_difference": largest}


def _example(clip: ClipSettings, batch: int) -> Tensor:
    shape = (batch, 3, clip.frames, clip.size_px, clip.size_px)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(batch))


def _program(network: nn.Module, clips: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    return torch.export.export(network, (clips,), dynamic_shapes=({0: batch},))


def _write_torch(opened: VideoClassifier | VideoEncoder, clips: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    torch.export.save(_program(opened.network, clips), path)
    return torch.export.load(path).module()


def _write_onnx(opened: VideoClassifier | VideoEncoder, clips: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    network, output = opened.network, _output(opened)
    size = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    torch.onnx.export(
        _program(network, clips),
        (),
        path,
        dynamo=True,
        input_names=["clip"],
        output_names=[output],
        external_data=size > LARGEST_ONNX_BYTES,
        verbose=False,
    )
    _describe_onnx(opened, path)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda given: torch.from_numpy(session.run([output], {"clip": given.numpy()})[0])


def _describe_onnx(opened: VideoClassifier | VideoEncoder, path: Path) -> None:
    """Name the first axis of input and output ``batch``, and add classes, mean and deviation to the metadata."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    (found,) = {value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if found and axis.dim_param == found:
                axis.dim_param = "batch"
    facts = {"preprocessing": json_line(dump(opened.preprocessing))}
    if isinstance(opened, VideoClassifier):
        facts |= {"classes": json_line(list(opened.classes)), "label": opened.label}
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, path)


Writer = Callable[[VideoClassifier | VideoEncoder, Tensor, Path], Callable[[Tensor], Tensor]]
#: File, packages that it takes, and (network, example clips, path) -> how to run what was written.
GRAPHS: dict[str, tuple[str, tuple[str, ...], Writer]] = {
    "torch": ("model.pt2", (), _write_torch),
    "onnx": ("model.onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx),
}


@contextlib.contextmanager
def _quiet() -> Any:
    """Silence the exporters, which report progress and warn of themselves; what matters is compared."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
