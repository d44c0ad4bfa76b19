"""Checks of packages, torch, attention kernels, DeepSpeed's operators, the matrix product and the readers of videos."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvd_ds.config.base import PACKAGE_FOLDER
from mvd_ds.tools.doctor.compare import SLOW_RATIO
from mvd_ds.tools.doctor.findings import Finding
from mvd_ds.tools.machine.matmul import datasheet_rate, matrix_rate

REQUIREMENTS = PACKAGE_FOLDER.parent / "requirements.txt"
INSTALL = "pip install -r requirements.txt"

if TYPE_CHECKING:
    import torch

#: Package of each reader of videos.
READER_PACKAGES = {"decord": "decord", "pyav": "av", "torchcodec": "torchcodec"}
#: Largest mean difference between decoded and encoded pixels, of 255.
FRAME_TOLERANCE = 6.0
#: Least share of the datasheet's matrix rate; a healthy H200 reaches 0.80 (790 of 989 TFLOP/s).
PEAK_SHARE = 0.55


def check_packages() -> Finding:
    """Check that every package of requirements.txt is installed, in the range that was tested."""
    from packaging.requirements import Requirement

    found: dict[str, float | str] = {"python": platform.python_version()}
    missing, outside = [], []
    for line in _requirement_lines():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(line)
            continue
        found[requirement.name] = version
        if not requirement.specifier.contains(version, prereleases=True):
            outside.append(f"{requirement.name} {version} (tested: {requirement.specifier})")
    if missing:
        return Finding("packages", "bad", f"missing: {', '.join(missing)}", INSTALL, found)
    if outside:
        return Finding("packages", "warn", f"outside the tested range: {', '.join(outside)}", INSTALL, found)
    told = ", ".join(
        f"{name} {found[name]}" for name in ("python", "torch", "deepspeed", "timm", "decord", "av") if name in found
    )
    return Finding("packages", "ok", f"all {len(found) - 1} in the tested ranges: {told}", facts=found)


def _requirement_lines() -> list[str]:
    """Return a requirement for every package, from requirements.txt or what was recorded when mvd_ds was installed."""
    if REQUIREMENTS.exists():
        lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    else:
        lines = importlib.metadata.requires("mvd_ds") or []
    return [text for text in (line.partition("#")[0].strip() for line in lines) if text]


def check_torch() -> Finding:
    """Check that torch has the collectives that this host needs."""
    import torch
    import torch.distributed as dist

    parts = [f"torch {torch.__version__}", f"CUDA {torch.version.cuda or 'none'}", f"{torch.get_num_threads()} threads"]
    if torch.cuda.is_available():
        parts.append(f"NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}")
        parts.append(f"cuDNN {torch.backends.cudnn.version()}")
    backends = [name for name, there in (("nccl", dist.is_nccl_available()), ("gloo", dist.is_gloo_available())) if there]
    wanted = "nccl" if torch.cuda.is_available() else "gloo"
    text = f"{', '.join(parts)}; collectives by {', '.join(backends)}"
    if wanted not in backends:
        return Finding("torch", "bad", f"{text}: {wanted} is missing", "pip install --force-reinstall torch")
    return Finding("torch", "ok", text)


def check_attention() -> Finding:
    """Check which attention kernels run here, and which one ``model.attention=auto`` takes."""
    import torch

    from mvd_ds.models.attention import choose_kernel

    cuda = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if cuda else torch.float32
    running = _running_kernels(device, dtype)
    if not running:
        return Finding("attention", "bad", "no kernel of torch's attention runs", "pip install --force-reinstall torch")
    chosen, reason = choose_kernel("auto", device, dtype, 64)
    text = f"torch runs {', '.join(running)}; auto takes {chosen} ({reason}); {_flash_attention()}"
    return Finding("attention", "ok", text)


def _running_kernels(device: torch.device, dtype: torch.dtype) -> list[str]:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    query = torch.randn(1, 2, 64, 64, device=device, dtype=dtype)
    kernels = {"cuDNN": "CUDNN_ATTENTION", "flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "math": "MATH"}
    running = []
    for name, attribute in kernels.items():
        try:
            with sdpa_kernel(getattr(SDPBackend, attribute)):
                torch.nn.functional.scaled_dot_product_attention(query, query, query)
            running.append(name)
        except RuntimeError:
            continue
    return running


def _flash_attention() -> str:
    """Return whether flash-attn is installed, or could be."""
    if importlib.util.find_spec("flash_attn_2_cuda") is not None:
        return f"flash-attn {importlib.metadata.version('flash-attn')} is installed"
    from packaging.version import Version

    # Found by building 2.8.3.post2: its C++ is for torch <= 2.13.
    torch = Version(importlib.metadata.version("torch"))
    obstacles = [] if torch < Version("2.14") else [f"builds with torch <= 2.13, here is {torch}"]
    if shutil.which("nvcc") is None:
        obstacles.append("needs nvcc")
    where = "requirements.txt says how"
    return f"flash-attn, an option, is not installed ({'; '.join(obstacles) if obstacles else where})"


def check_matrix_product() -> Finding:
    """Measure a square matrix product on every device of this host: bf16 on GPUs, fp32 on the CPU."""
    import torch

    cuda = torch.cuda.is_available()
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())] if cuda else [torch.device("cpu")]
    rates = [matrix_rate(device) for device in devices]
    slowest = min(range(len(rates)), key=rates.__getitem__)
    kind = f"bf16 TFLOP/s, {len(rates)} GPUs" if cuda else "fp32 TFLOP/s on the CPU"
    spread = f"{rates[slowest]:.3g} to {max(rates):.3g}" if len(rates) > 1 else f"{rates[0]:.3g}"
    text, facts = f"{spread} {kind}", {"tflops": rates[slowest]}
    peak = datasheet_rate(devices[0])
    if len(rates) > 1 and statistics.median(rates) > SLOW_RATIO * rates[slowest]:
        text += f"; GPU {slowest} is slow"
        return Finding("matrix product", "warn", text, f"nvidia-smi -q -d PERFORMANCE,CLOCK,POWER -i {slowest}", facts)
    if peak and rates[slowest] < PEAK_SHARE * peak:
        text += f", {rates[slowest] / peak:.0%} of the datasheet's {peak:.0f}"
        return Finding("matrix product", "warn", text, "nvidia-smi -q -d PERFORMANCE,CLOCK,POWER", facts)
    return Finding("matrix product", "ok", text, facts=facts)


def check_operators() -> Finding:
    """Name the DeepSpeed operators that could be compiled here; none is needed, as AdamW is torch's."""
    from mvd_ds.training.engine.deepspeed_engine import buildable_operators

    able = [name for name, builds in buildable_operators().items() if builds]
    tools = [f"{name}{'' if shutil.which(name) else ' missing'}" for name in ("g++", "ninja", "nvcc")]
    text = f"none is needed; {len(able)} could be built here ({', '.join(able) or 'none'}) with {', '.join(tools)}"
    return Finding("DeepSpeed ops", "ok", text)


def check_reader(reader: str) -> Finding:
    """Check that ``reader`` decodes a small H.264 file, frame by frame, to what was written."""
    import numpy as np

    name = f"reader {reader}"
    if importlib.util.find_spec(READER_PACKAGES[reader]) is None:
        if reader != "pyav":
            return Finding(name, "ok", "not installed; PyAV reads every video")
        return Finding(name, "bad", "is not installed", INSTALL)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.mp4"
        written = _write_probe(path)
        try:
            frames = _read(reader, str(path), len(written))
        except Exception as error:
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            optional = reader == "torchcodec"
            remedy = "apt-get install ffmpeg: torchcodec loads its libraries" if optional else f"{INSTALL} --force-reinstall"
            return Finding(name, "warn" if optional else "bad", f"cannot decode H.264: {reason[0]}", remedy)
    difference = float(np.abs(frames.astype(np.float32) - written).mean())
    version = importlib.metadata.version(READER_PACKAGES[reader])
    text = f"{version} decodes H.264, {difference:.1f} of 255 from what was written"
    if difference > FRAME_TOLERANCE:
        return Finding(name, "bad", f"{text}: that is another picture", f"{INSTALL} --force-reinstall")
    return Finding(name, "ok", text)


def _write_probe(path: Path, frames: int = 8, side: int = 64) -> Any:
    """Encode a moving gradient, and return its pixels as uint8 (T, H, W, 3)."""
    import av
    import numpy as np

    x = np.arange(side)
    slopes = [(96 + 64 * np.sin((x[None] + x[:, None] + 8 * number) / 12))[..., None] for number in range(frames)]
    pixels = np.repeat(np.stack(slopes), 3, axis=-1).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = side, side, "yuv420p"
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return pixels


def _read(reader: str, path: str, frames: int) -> Any:
    """Return all frames, uint8 (T, H, W, 3), decoded by ``reader``."""
    import numpy as np

    from mvd_ds.data.readers.decode import open_video

    with open_video(path, reader) as video:
        return video.get(np.arange(frames))
