"""Graphs of a network for other runtimes, each held against the network before it counts as written."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mvd_ds.config import ClipSettings, ConfigError

#: Largest difference of an output from the original's, over the largest number of that output, that is rounding: other kernels,
#: fp32.
TOLERANCE = 1e-4
#: Clips of the examples that graphs are compared on; none is the number that they were traced with.
BATCHES = (1, 3)
TRACED_BATCH = 2
#: Above this, the weights of an ONNX file stand beside it: protobuf holds 2 GiB.
LARGEST_ONNX_BYTES = 1_800_000_000
LARGEST_BATCH = 4096


class Traced(NamedTuple):
    """A network as a graph shows it.

    Attributes:
        network: uint8 clips (B, C, T, H, W) -> a tensor, or a tuple of them.
        outputs: name of each of its outputs, and how a sentence says its shape.
        clip: the clips that it takes.
        facts: texts that a format with room for them carries.
    """

    network: nn.Module
    outputs: dict[str, str]
    clip: ClipSettings
    facts: dict[str, str]

    def answers(self, clips: Tensor) -> tuple[Tensor, ...]:
        """Return the network's outputs, as a tuple even where there is one."""
        return _as_tuple(self.network(clips))


Run = Callable[[Tensor], tuple[Tensor, ...]]
Writer = Callable[[Traced, Tensor, Path], Run]


def write_graph(name: str, traced: Traced, place: Path) -> dict[str, Any]:
    """Write one graph into the folder ``place`` and hold it against the network; return the facts about it.

    Raises:
        ConfigError: if a package is missing, or the graph computes something else.
    """
    file, packages, write = GRAPHS[name]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"--graph {name}: needs {', '.join(missing)}; pip install {' '.join(packages)}")
    largest = dict.fromkeys(traced.outputs, 0.0)
    with _quiet():
        run = write(traced, _example(traced.clip, TRACED_BATCH), place / file)
        for batch in BATCHES:
            clips = _example(traced.clip, batch)
            for output, found, expected in zip(traced.outputs, run(clips), traced.answers(clips), strict=True):
                scale = float(expected.abs().max()) or 1.0
                largest[output] = max(largest[output], float((found - expected).abs().max()) / scale)
    for output, far in largest.items():
        if not far <= TOLERANCE:
            raise ConfigError(f"--graph {name}: its {output} differ from the original's by {far:.1e}, more than {TOLERANCE:.0e}")
    shapes = ", ".join(f"{output} {shape}" for output, shape in traced.outputs.items())
    return {"input": "uint8 (B, 3, T, H, W)", "output": shapes, "largest_difference": max(largest.values())}


def _as_tuple(found: Any) -> tuple[Tensor, ...]:
    return (found,) if isinstance(found, Tensor) else tuple(found)


def _example(clip: ClipSettings, batch: int) -> Tensor:
    shape = (batch, 3, clip.frames, clip.size_px, clip.size_px)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(batch))


def _program(network: nn.Module, clips: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    return torch.export.export(network, (clips,), dynamic_shapes=({0: batch},))


def _write_torch(traced: Traced, clips: Tensor, path: Path) -> Run:
    torch.export.save(_program(traced.network, clips), path)
    program = torch.export.load(path).module()
    return lambda given: _as_tuple(program(given))


def _write_onnx(traced: Traced, clips: Tensor, path: Path) -> Run:
    network, outputs = traced.network, list(traced.outputs)
    size = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    torch.onnx.export(
        _program(network, clips),
        (),
        path,
        dynamo=True,
        input_names=["clip"],
        output_names=outputs,
        external_data=size > LARGEST_ONNX_BYTES,
        verbose=False,
    )
    _describe_onnx(traced.facts, path)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda given: tuple(map(torch.from_numpy, session.run(outputs, {"clip": given.numpy()})))


def _describe_onnx(facts: dict[str, str], path: Path) -> None:
    """Name the first axis of input and outputs ``batch``, and add facts to the metadata."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    (found,) = {value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if found and axis.dim_param == found:
                axis.dim_param = "batch"
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, path)


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
