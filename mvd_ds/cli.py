"""The front door: ``python -m mvd_ds COMMAND ...``. One function per command, no logic, no torch until one runs."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from mvd_ds.config import (
    ConfigError,
    EvaluateRecipe,
    FeaturesRecipe,
    FinetuneRecipe,
    ProbeRecipe,
    TrainingRecipe,
    find_recipe,
    load_recipe,
    recipe_names,
)

USER_FAULT, FAILURE, INTERRUPTED = 2, 1, 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done; 75 a run that was asked to stop, did, and goes on by the same command; 2 something that a person must mend,
    in one line each; 1 any other failure; 130 interrupted at once. ``status`` has 3 for a run that still runs.
    """
    options = _parser().parse_args(arguments)
    is_main = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("mvd_ds").setLevel(logging.INFO if is_main else logging.ERROR)
    try:
        return options.function(options) or 0
    except ConfigError as error:
        # Raised on all ranks alike; one of them speaks.
        if is_main:
            for line in str(error).splitlines():
                print(f"mvd_ds: {line}", file=sys.stderr, flush=True)
        return USER_FAULT
    except OSError as error:
        print(f"mvd_ds: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr, flush=True)
        return FAILURE
    except KeyboardInterrupt:
        if is_main:
            print("mvd_ds: interrupted; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mvd_ds",
        description="Train large video models by Masked Video Distillation.",
        epilog="Under the launcher: deepspeed --module mvd_ds COMMAND RECIPE [key=value ...]",
    )
    # The deepspeed launcher puts this in front; the environment says the same.
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_recipe_command(commands, "pretrain", _train, "stage one: a teacher learns to recover masked patches (MAE, VideoMAE)")
    _add_recipe_command(commands, "distill", _train, "stage two: a student learns to predict its teachers' features")
    _add_recipe_command(commands, "finetune", _finetune, "a pretrained encoder learns to classify, with a head of its own")
    _add_recipe_command(commands, "evaluate", _evaluate, "test a classifier on several views of every video")
    _add_recipe_command(commands, "probe", _probe, "what frozen features know: linear probes on held-out clips")
    _add_recipe_command(commands, "features", _features, "features of every video of a manifest, in files with an index")
    _add_launch(commands)
    _add_synthesize(commands)
    _add_status(commands)
    _add_report(commands)
    _add_convert(commands)
    _add_doctor(commands)
    _add_plan(commands)
    _add_export(commands)
    _add_classify(commands)
    _add_recipes(commands)
    return parser


def _add_recipe_command(commands: argparse._SubParsersAction, name: str, function: Callable, summary: str) -> None:
    command = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog="Settings are those of the recipe: `python -m mvd_ds recipes RECIPE` prints them. Example: "
        f"python -m mvd_ds {name} my.yaml batch.micro=4 run.output=runs/try",
    )
    command.add_argument("recipe", metavar="RECIPE", help="name of a shipped recipe, or a YAML file")
    command.add_argument("overrides", metavar="key=value", nargs="*", help="settings that replace the recipe's")
    command.set_defaults(function=function, command=name)


def _add_launch(commands: argparse._SubParsersAction) -> None:
    from mvd_ds.tools.launch.options import add_options

    summary = "start a training through deepspeed on one host or many, restart it when it fails, leave nothing behind"
    command = commands.add_parser("launch", help=summary, description=summary)
    add_options(command)
    command.set_defaults(function=_launch)


def _add_synthesize(commands: argparse._SubParsersAction) -> None:
    summary = "write the sample set: moving digits as H.264 files with two labels, what and how"
    command = commands.add_parser("synthesize", help=summary, description=summary)
    command.add_argument("folder", metavar="FOLDER", type=Path, help="folder to write; train.txt and val.txt are its manifests")
    command.add_argument("--train", type=int, default=4000, metavar="CLIPS", help="training clips (default %(default)s)")
    command.add_argument("--val", type=int, default=2000, metavar="CLIPS", help="held-out clips (default %(default)s)")
    command.add_argument("--seed", type=int, default=0, help="the same seed writes the same clips (default %(default)s)")
    command.add_argument("--size", type=int, default=48, metavar="PIXELS", help="side of a clip (default %(default)s)")
    command.add_argument("--frames", type=int, default=16, help="frames of a clip (default %(default)s)")
    command.add_argument("--workers", type=int, default=0, help="processes (default: one per core)")
    command.set_defaults(function=_synthesize)


def _add_status(commands: argparse._SubParsersAction) -> None:
    summary = "where a run stands: a line, and exit code 0 finished, 75 preempted, 1 failed, 3 running"
    command = commands.add_parser("status", help=summary, description=summary)
    command.add_argument("run", metavar="RUN", type=Path, help="run folder")
    command.set_defaults(function=_status)


def _add_report(commands: argparse._SubParsersAction) -> None:
    summary = "one self-contained HTML page and JSON over finished runs"
    command = commands.add_parser("report", help=summary, description=summary)
    command.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run folders, in the order to show them")
    command.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder for report.html and report.json")
    command.set_defaults(function=_report)


def _add_convert(commands: argparse._SubParsersAction) -> None:
    summary = "what a weights file holds, tensor by tensor, and the same in another format"
    command = commands.add_parser("convert", help=summary, description=summary)
    command.add_argument("source", metavar="IN", type=Path, help="file or folder: ours, MAE, VideoMAE, MVD, Hugging Face, ZeRO")
    command.add_argument(
        "target", metavar="OUT", type=Path, nargs="?", help="file or folder to write; without it, only the table"
    )
    command.add_argument("--to", default="mvd_ds", metavar="FORMAT", help="format to write; 'list' explains them (default: ours)")
    command.add_argument("--from", dest="from_format", metavar="FORMAT", help="format of IN where its content does not tell")
    command.add_argument("--heads", type=int, metavar="COUNT", help="attention heads of the encoder where the file does not say")
    command.add_argument("--decoder-heads", type=int, metavar="COUNT", help="the same of its decoders")
    command.set_defaults(function=_convert)


def _add_doctor(commands: argparse._SubParsersAction) -> None:
    from mvd_ds.tools.options import add_doctor_options

    summary = "what these machines can do, what is missing, and the command that mends it"
    command = commands.add_parser(
        "doctor",
        help=summary,
        description=f"{summary}. Without --hostfile: this host, or the group of the launcher it runs under. "
        "Exit code 0: healthy; 1: something stops training.",
    )
    add_doctor_options(command)
    command.set_defaults(function=_doctor)


def _add_plan(commands: argparse._SubParsersAction) -> None:
    from mvd_ds.tools.options import add_plan_options

    summary = "memory, time and cost of a recipe on so many GPUs, before anything is started"
    command = commands.add_parser("plan", help=summary, description=summary)
    command.add_argument("recipe", metavar="RECIPE", help="name of a shipped recipe, or a YAML file")
    command.add_argument("overrides", metavar="key=value", nargs="*", help="settings that replace the recipe's")
    add_plan_options(command)
    command.set_defaults(function=_plan, command=None)


def _add_export(commands: argparse._SubParsersAction) -> None:
    summary = "a classifier in one folder that needs nothing else, and as a graph for other runtimes"
    command = commands.add_parser("export", help=summary, description=summary)
    command.add_argument("source", metavar="SOURCE", type=Path, help="folder of a run or of a model, or what convert reads")
    command.add_argument("folder", metavar="FOLDER", type=Path, help="folder to write; mvd_ds.load(FOLDER) opens it")
    command.add_argument("--graph", nargs="+", choices=("torch", "onnx"), default=[], help="write model.pt2, model.onnx too")
    command.add_argument("--from", dest="from_format", metavar="FORMAT", help="format of SOURCE where its content does not tell")
    command.set_defaults(function=_export)


def _add_classify(commands: argparse._SubParsersAction) -> None:
    summary = "what a classifier sees in video files"
    command = commands.add_parser("classify", help=summary, description=summary)
    command.add_argument("folder", metavar="FOLDER", help="folder of `finetune` or `export`")
    command.add_argument("videos", metavar="VIDEO", nargs="+", type=Path, help="video files")
    command.add_argument("--top", type=int, default=5, metavar="COUNT", help="classes to print (default %(default)s)")
    command.add_argument("--segments", type=int, default=1, metavar="COUNT", help="clips along a video (default %(default)s)")
    command.add_argument("--crops", type=int, default=1, metavar="COUNT", help="crops of a clip (default %(default)s)")
    command.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: a GPU where there is one")
    command.set_defaults(function=_classify)


def _add_recipes(commands: argparse._SubParsersAction) -> None:
    summary = "list the shipped recipes, or print one"
    command = commands.add_parser("recipes", help=summary, description=summary)
    command.add_argument("name", metavar="NAME", nargs="?", help="recipe to print as it is written")
    command.set_defaults(function=_recipes)


def _train(options: argparse.Namespace) -> None:
    recipe = load_recipe(options.recipe, options.overrides, options.command)
    assert isinstance(recipe, TrainingRecipe)
    from mvd_ds.runs.train import train

    train(recipe, find_recipe(options.recipe).stem)


def _launch(options: argparse.Namespace) -> int:
    from mvd_ds.tools.launch.options import LaunchOptions
    from mvd_ds.tools.launch.supervisor import launch

    return launch(LaunchOptions.parsed(options))


def _finetune(options: argparse.Namespace) -> None:
    recipe = load_recipe(options.recipe, options.overrides, options.command)
    assert isinstance(recipe, FinetuneRecipe)
    from mvd_ds.runs.finetune import finetune

    finetune(recipe, find_recipe(options.recipe).stem)


def _probe(options: argparse.Namespace) -> None:
    recipe = load_recipe(options.recipe, options.overrides, options.command)
    assert isinstance(recipe, ProbeRecipe)
    from mvd_ds.runs.probe import probe

    probe(recipe, find_recipe(options.recipe).stem)


def _evaluate(options: argparse.Namespace) -> None:
    recipe = load_recipe(options.recipe, options.overrides, options.command)
    assert isinstance(recipe, EvaluateRecipe)
    from mvd_ds.runs.evaluate import evaluate
    from mvd_ds.tools.evaluation_page import write_evaluation_page

    folder = evaluate(recipe, find_recipe(options.recipe).stem)
    if os.environ.get("RANK", "0") == "0":
        write_evaluation_page(folder)


def _features(options: argparse.Namespace) -> None:
    recipe = load_recipe(options.recipe, options.overrides, options.command)
    assert isinstance(recipe, FeaturesRecipe)
    from mvd_ds.runs.extract import extract

    extract(recipe, find_recipe(options.recipe).stem)


def _export(options: argparse.Namespace) -> None:
    from mvd_ds.tools.export import export

    export(options.source, options.folder, options.graph, options.from_format)


def _classify(options: argparse.Namespace) -> None:
    from mvd_ds.tools.classify import classify

    classify(options.folder, options.videos, options.top, options.segments, options.crops, options.device)


def _synthesize(options: argparse.Namespace) -> None:
    from mvd_ds.runs.synthesize import synthesize

    synthesize(options.folder, options.train, options.val, options.seed, options.size, options.frames, options.workers)


def _status(options: argparse.Namespace) -> int:
    from mvd_ds.tools.status import show_status

    return show_status(options.run)


def _report(options: argparse.Namespace) -> None:
    from mvd_ds.tools.report import write_report

    write_report(options.runs, options.output)


def _convert(options: argparse.Namespace) -> None:
    from mvd_ds.tools.convert import convert

    convert(options.source, options.target, options.to, options.from_format, options.heads, options.decoder_heads)


def _doctor(options: argparse.Namespace) -> int:
    from mvd_ds.tools.doctor import answer_doctor, doctor

    if options.answer:
        return answer_doctor(options.answer, options.folder, options.token)
    return doctor(options.hostfile, options.json, options.folder)


def _plan(options: argparse.Namespace) -> int:
    from mvd_ds.tools.plan import make_plan, write_plan
    from mvd_ds.tools.plan_devices import find_machine

    machine = find_machine(options.gpu, options.network, options.gpus_per_node, options.cores_per_node, options.efficiency)
    plan = make_plan(options.recipe, options.overrides, options.gpus, machine, options.clips, options.decode)
    return write_plan(plan, machine, options.json, options.plot)


def _recipes(options: argparse.Namespace) -> None:
    if options.name:
        print(find_recipe(options.name).read_text(encoding="utf-8"), end="")
        return
    for name in recipe_names():
        first = find_recipe(name).read_text(encoding="utf-8").splitlines()[0].removeprefix("# What:").strip()
        print(f"{name:<30}{first}")
