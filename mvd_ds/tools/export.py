"""``export SOURCE FOLDER`` writes a classifier in one folder that needs nothing else, and as a graph for other runtimes."""

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
from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.models.classifier import PixelClassifier
from mvd_ds.models.classifier_folder import ClassifierCard, open_classifier, save_classifier
from mvd_ds.training.console import say

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

    ``mvd_ds.load(folder)`` opens it. A graph takes uint8 clips (B, C, T, H, W) for any B and gives logits (B, classes); it
    is compared with the original before anything is written.

    Args:
        source: folder of a run or of a model, or a classifier in any format that ``convert`` reads.
        folder: to write; one that holds something else is not touched.
        graphs: names of ``GRAPHS``.
        format: format of the source where its content does not tell.

    Raises:
        ConfigError: if there is no classifier in the source, the folder is taken, or a graph computes something else.
    """
    source = source / "model" if (source / "model").is_dir() else source
    if folder.resolve() == source.resolve():
        raise ConfigError(f"{folder}: is the source itself; give another folder")
    if folder.exists() and not (folder / "config.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists and is no model folder; give another")
    model, card = open_classifier(source, format)
    network = PixelClassifier(model, card.preprocessing).eval().requires_grad_(False)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        found = {GRAPHS[name][0]: _write_graph(name, network, card, Path(place)) for name in graphs}
        save_classifier(folder, model, model.state_dict(), card, {"exported_from": str(source), "graphs": found})
        for path in sorted(Path(place).iterdir()):
            path.rename(folder / path.name)
    for name, facts in found.items():
        say(f"{folder / name}: logits differ from the original's by {facts['largest_difference']:.1e} at most, batches {BATCHES}")
    say(f"{folder}: {len(card.classes)} classes; mvd_ds.load('{folder}').classify('video.mp4')")


def _write_graph(name: str, network: PixelClassifier, card: ClassifierCard, place: Path) -> dict[str, Any]:
    """Write one graph into ``place`` and hold it against the network."""
    file, packages, write = GRAPHS[name]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"--graph {name}: needs {', '.join(missing)}; pip install {' '.join(packages)}")
    with _quiet():
        run = write(network, _example(card, TRACED_BATCH), place / file)
        largest = 0.0
        for batch in BATCHES:
            clips = _example(card, batch)
            expected = network(clips)
            scale = float(expected.abs().max()) or 1.0
            largest = max(largest, float((run(clips) - expected).abs().max()) / scale)
    if not largest <= TOLERANCE:
        raise ConfigError(f"--graph {name}: its logits differ from the original's by {largest:.1e}, more than {TOLERANCE:.0e}")
    return {"input": "uint8 (B, 3, T, H, W)", "output": "logits (B, classes)", "largest_difference": largest}


def _example(card: ClassifierCard, batch: int) -> Tensor:
    clip = card.preprocessing.clip
    shape = (batch, 3, clip.frames, clip.size_px, clip.size_px)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(batch))


def _program(network: PixelClassifier, clips: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    return torch.export.export(network, (clips,), dynamic_shapes=({0: batch},))


def _write_torch(network: PixelClassifier, clips: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    torch.export.save(_program(network, clips), path)
    return torch.export.load(path).module()


def _write_onnx(network: PixelClassifier, clips: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    size = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    torch.onnx.export(
        _program(network, clips),
        (),
        path,
        dynamo=True,
        input_names=["clip"],
        output_names=["logits"],
        external_data=size > LARGEST_ONNX_BYTES,
        verbose=False,
    )
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda given: torch.from_numpy(session.run(["logits"], {"clip": given.numpy()})[0])


#: File, packages that it takes, and (network, example clips, path) -> how to run what was written.
GRAPHS: dict[str, tuple[str, tuple[str, ...], Callable[[PixelClassifier, Tensor, Path], Callable[[Tensor], Tensor]]]] = {
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
