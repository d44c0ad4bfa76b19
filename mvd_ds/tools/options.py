"""Options of the commands that take no recipe, and of ``plan``; apart from what they do, so that ``--help`` costs nothing."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_synthesize_options(command: argparse.ArgumentParser) -> None:
    """Options of ``synthesize``."""
    command.add_argument("folder", metavar="FOLDER", type=Path, help="folder to write; train.txt and val.txt are its manifests")
    command.add_argument("--train", type=int, default=4000, metavar="CLIPS", help="training clips (default %(default)s)")
    command.add_argument("--val", type=int, default=2000, metavar="CLIPS", help="held-out clips (default %(default)s)")
    command.add_argument("--seed", type=int, default=0, help="the same seed writes the same clips (default %(default)s)")
    command.add_argument("--size", type=int, default=48, metavar="PIXELS", help="side of a clip (default %(default)s)")
    command.add_argument("--frames", type=int, default=16, help="frames of a clip (default %(default)s)")
    command.add_argument("--workers", type=int, default=0, help="processes (default: one per core)")


def add_compare_options(command: argparse.ArgumentParser) -> None:
    """Options of ``compare``."""
    command.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run folders, one for each seed")
    command.add_argument("--against", metavar="RUN", nargs="+", type=Path, required=True, help="run folders of the same seeds")
    command.add_argument("--output", type=Path, metavar="FILE", help="JSON to write")


def add_checkpoints_options(command: argparse.ArgumentParser) -> None:
    """Options of ``checkpoints``."""
    command.add_argument("folder", metavar="DIR", type=Path, help="folder of a run, of its checkpoints, or of one")
    command.add_argument("--verify", action="store_true", help="read every file and compare its digest, not only its size")
    command.add_argument("--prune", type=_positive, metavar="COUNT", help="remove all but the newest COUNT")
    command.add_argument("--keep-every", type=_positive, metavar="STEPS", help="with --prune: keep multiples of STEPS too")
    command.add_argument("--to", choices=("safetensors",), help="write the model of one as a model folder")
    command.add_argument("--output", type=Path, metavar="OUT", help="with --to: the folder to write")
    command.add_argument("--step", type=_positive, help="with --to: which (default: the latest)")
    command.add_argument("--ema", action="store_true", help="with --to: the moving average in place of the weights")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)


def add_prepare_options(command: argparse.ArgumentParser) -> None:
    """Options of ``prepare``. A command that was stopped goes on where it was."""
    add = command.add_argument
    add("source", metavar="SOURCE", type=Path, help="folder, manifest, CSV (Kinetics, or path,label), Something-Something JSON")
    add("output", metavar="OUT", type=Path, help="folder to write: manifest.txt, report.txt, videos or shards")
    add("--videos", type=Path, metavar="FOLDER", help="holds the videos of a list (default: the list's folder)")
    add("--classes", type=Path, metavar="FILE", help="class names: JSON, or the training split's manifest (default: the list's)")
    add("--verify", action="store_true", help="decode every frame (0.1 s for 10 s of video)")
    add("--encode", choices=("h264", "mjpeg"), help="encode anew, quick to decode: h264 in short groups, mjpeg quicker still")
    add("--short-side", type=positive, metavar="PIXELS", help="with --encode, make larger videos this small")
    add("--group", type=positive, default=16, metavar="FRAMES", help="h264: from key frame to key frame (default %(default)s)")
    add("--quality", type=positive, metavar="NUMBER", help="smaller is better (default: 20 for h264, 5 for mjpeg)")
    add("--shards", action="store_true", help="pack into tar files, which webdataset can read, too")
    add("--shard-mib", type=positive, default=512, metavar="SIZE", help="of a tar file (default %(default)s)")
    add("--workers", type=int, default=0, metavar="COUNT", help="processes (default: one per core)")
    limit = "a file that takes longer is ended and named in the report (default %(default)s)"
    add("--seconds-per-file", type=above_zero, default=300.0, metavar="SECONDS", help=limit)


def add_convert_options(command: argparse.ArgumentParser) -> None:
    """Options of ``convert``."""
    command.add_argument("source", metavar="IN", type=Path, help="file or folder: ours, MAE, VideoMAE, MVD, Hugging Face, ZeRO")
    command.add_argument(
        "target", metavar="OUT", type=Path, nargs="?", help="file or folder to write; without it, only the table"
    )
    command.add_argument("--to", default="mvd_ds", metavar="FORMAT", help="format to write; 'list' explains them (default: ours)")
    command.add_argument("--from", dest="from_format", metavar="FORMAT", help="format of IN where its content does not tell")
    command.add_argument("--heads", type=int, metavar="COUNT", help="attention heads of the encoder where the file does not say")
    command.add_argument("--decoder-heads", type=int, metavar="COUNT", help="the same of its decoders")


def add_export_options(command: argparse.ArgumentParser) -> None:
    """Options of ``export``."""
    command.add_argument("source", metavar="SOURCE", type=Path, help="folder of a run or of a model, or what convert reads")
    command.add_argument("folder", metavar="FOLDER", type=Path, help="folder to write; mvd_ds.load(FOLDER) opens it")
    command.add_argument("--graph", nargs="+", choices=("torch", "onnx"), default=[], help="write model.pt2, model.onnx too")
    command.add_argument("--from", dest="from_format", metavar="FORMAT", help="format of SOURCE where its content does not tell")


def add_classify_options(command: argparse.ArgumentParser) -> None:
    """Options of ``classify``."""
    command.add_argument("folder", metavar="FOLDER", help="folder of `finetune` or `export`")
    command.add_argument("videos", metavar="VIDEO", nargs="+", type=Path, help="video files")
    command.add_argument("--top", type=int, default=5, metavar="COUNT", help="classes to print (default %(default)s)")
    command.add_argument("--segments", type=int, default=1, metavar="COUNT", help="clips along a video (default %(default)s)")
    command.add_argument("--crops", type=int, default=1, metavar="COUNT", help="crops of a clip (default %(default)s)")
    command.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: a GPU where there is one")


def add_visualize_options(command: argparse.ArgumentParser) -> None:
    """Options of ``visualize``."""
    add = command.add_argument
    add(
        "model",
        metavar="MODEL",
        type=Path,
        help="folder of a run or its model: stage one, student, classifier, encoder",
    )
    add("videos", metavar="VIDEO", nargs="+", type=Path, help="video or image files")
    add("--output", type=Path, default=Path("pictures"), metavar="FOLDER", help="folder to write (default %(default)s)")
    add("--format", choices=("png", "gif", "mp4"), default="png", help="a page of frames, or moving (default %(default)s)")
    teacher = "of a student: weights of a teacher of its recipe, to compare with; once for each"
    add("--teacher", action="append", default=[], metavar="NAME=FOLDER", help=teacher)
    add("--heads", type=int, nargs="+", metavar="INDEX", help="heads of the last layer, from 0 (default: three, evenly spread)")
    add("--cell", type=positive, default=112, metavar="PIXELS", help="side of an image (default %(default)s)")
    add("--device", choices=("auto", "cpu"), default="auto", help="auto: a GPU where there is one")


def add_doctor_options(command: argparse.ArgumentParser) -> None:
    """Options of ``doctor``; its exit code is 0 for healthy hosts, 1 where something stops training."""
    command.add_argument("--hostfile", type=Path, metavar="FILE", help="hosts to ask through ssh: lines of 'HOST slots=DEVICES'")
    command.add_argument("--json", type=Path, metavar="FILE", help="write all findings, by host")
    command.add_argument(
        "--folder",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FOLDER",
        help="of runs or data, shared by all hosts",
    )
    # How a host answers the doctor that asks it.
    command.add_argument("--answer", choices=("host", "group"), help=argparse.SUPPRESS)
    command.add_argument("--token", default="", help=argparse.SUPPRESS)


def add_plan_options(command: argparse.ArgumentParser) -> None:
    """Options of ``plan``."""
    command.add_argument("recipe", metavar="RECIPE", help="name of a shipped recipe, or a YAML file")
    command.add_argument("overrides", metavar="key=value", nargs="*", help="settings that replace the recipe's")
    command.add_argument("--gpus", type=positive, default=8, metavar="COUNT", help="devices in all (default %(default)s)")
    command.add_argument("--gpu", default="h200", metavar="NAME", help="kind of device, or cpu (default %(default)s)")
    command.add_argument("--network", metavar="RATE", help="400Gb/s: one adapter a GPU; 2x200Gb/s: the adapters of a node")
    command.add_argument("--gpus-per-node", type=positive, metavar="COUNT", help="devices of a node")
    command.add_argument("--cores-per-node", type=positive, metavar="COUNT", help="CPU cores of a node")
    command.add_argument("--clips", type=positive, metavar="COUNT", help="clips of an epoch (default: the manifest's)")
    command.add_argument(
        "--decode",
        type=above_zero,
        default=65.0,
        metavar="MS",
        help="CPU milliseconds that loading a clip takes (default %(default)s: 340 x 256 H.264; prepared files: 27)",
    )
    command.add_argument(
        "--efficiency",
        type=above_zero,
        metavar="SHARE",
        help="of the device's matrix rate that a step reaches (default: the device's, 0.45 for GPUs, an assumption)",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write every number")
    command.add_argument("--plot", type=Path, metavar="FILE", help="draw speed and cost over 1 to 1,024 GPUs")


def positive(text: str) -> int:
    """A whole number from 1 on.

    Raises:
        ValueError: for anything else; argparse names option and value.
    """
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def above_zero(text: str) -> float:
    """A number above 0.

    Raises:
        ValueError: for anything else; argparse names option and value.
    """
    if not float(text) > 0:
        raise ValueError(text)
    return float(text)
