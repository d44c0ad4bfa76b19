"""The front door: ``python -m mvd_ds COMMAND ...``. One function per command, no logic; nothing is imported until one runs."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from mvd_ds.tools.bench.options import add_bench
from mvd_ds.tools.parser import USER_FAULT, Parser

FAILURE, INTERRUPTED = 1, 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done; 75 a run that was asked to stop, did, and goes on by the same command; 2 something that a person must mend,
    in one line each; 1 any other failure; 130 interrupted at once. ``status`` has 3 for a run that still runs.
    """
    options = _parser().parse_args(arguments)
    from mvd_ds.config import ConfigError

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
    parser = Parser(
        prog="mvd_ds",
        description="Train large video models by Masked Video Distillation.",
        epilog="Under the launcher: deepspeed --module mvd_ds COMMAND RECIPE [key=value ...]",
    )
    # The deepspeed launcher puts this in front; the environment says the same.
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_recipe_command(commands, "pretrain", _runner("train", "train"), "stage one: recover masked patches (MAE, VideoMAE)")
    _add_recipe_command(commands, "distill", _runner("train", "train"), "stage two: predict the features of frozen teachers")
    _add_recipe_command(commands, "finetune", _runner("finetune", "finetune"), "a pretrained encoder learns to classify")
    _add_recipe_command(commands, "evaluate", _evaluate, "test a classifier on several views of every video")
    _add_recipe_command(commands, "preflight", _runner("preflight", "preflight"), "try pretrain or distill on 64 clips first")
    _add_recipe_command(commands, "probe", _runner("probe", "probe"), "what frozen features know: linear probes")
    _add_recipe_command(commands, "features", _runner("extract", "extract"), "features of every video, in files with an index")
    _add_launch(commands)
    _add_tools(commands)
    add_bench(commands)
    _add_recipes(commands)
    return parser


def _add_tools(commands: argparse._SubParsersAction) -> None:
    from mvd_ds.tools import options

    summary = "write the sample set: moving digits as H.264 files with two labels, what and how"
    _add_command(commands, "synthesize", _synthesize, options.add_synthesize_options, summary)
    _add_prepare(commands)
    _add_status(commands)
    _add_command(commands, "checkpoints", _checkpoints, options.add_checkpoints_options, "list, verify, prune, convert them")
    _add_report(commands)
    _add_command(commands, "compare", _compare, options.add_compare_options, "two sets of fine-tuned runs, with an interval")
    summary = "what a weights file holds, tensor by tensor, and the same in another format"
    _add_command(commands, "convert", _convert, options.add_convert_options, summary)
    summary = "what these machines can do, what is missing, and the command that mends it"
    _add_command(commands, "doctor", _doctor, options.add_doctor_options, summary)
    summary = "memory, time and cost of a recipe on so many GPUs, before anything is started"
    _add_command(commands, "plan", _plan, options.add_plan_options, summary)
    _add_command(
        commands,
        "export",
        _export,
        options.add_export_options,
        "a classifier in one folder that needs nothing else, and as a graph for other runtimes",
    )
    _add_command(commands, "classify", _classify, options.add_classify_options, "what a classifier sees in video files")
    summary = "pictures of what a network makes of videos: predictions, reconstruction, features, attention"
    _add_command(commands, "visualize", _visualize, options.add_visualize_options, summary)


def _add_recipe_command(commands: argparse._SubParsersAction, name: str, function: Callable, summary: str) -> None:
    command = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog="Settings are those of the recipe: `python -m mvd_ds recipes RECIPE` prints them. Example: "
        f"python -m mvd_ds {name} my.yaml batch.micro=4 run.output=runs/try",
    )
    command.add_argument("recipe", metavar="RECIPE", help="name of a shipped recipe, or a YAML file")
    command.add_argument("overrides", metavar="key=value", nargs="*", default=[], help="settings that replace the recipe's")
    command.set_defaults(function=function, command=name)


def _add_command(
    commands: argparse._SubParsersAction,
    name: str,
    function: Callable,
    add_options: Callable[[argparse.ArgumentParser], None],
    summary: str,
) -> None:
    command = commands.add_parser(name, help=summary, description=summary)
    add_options(command)
    command.set_defaults(function=function, command=None)


def _add_launch(commands: argparse._SubParsersAction) -> None:
    from mvd_ds.tools.launch.options import add_options

    summary = "start a training through deepspeed on one host or many, restart it when it fails, leave nothing behind"
    command = commands.add_parser("launch", help=summary, description=summary)
    add_options(command)
    command.set_defaults(function=_launch)


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    from mvd_ds.tools import options

    summary = "look at videos, report what is broken, and make files that are quick to read"
    _add_command(commands, "prepare", _prepare, options.add_prepare_options, summary)


def _add_status(commands: argparse._SubParsersAction) -> None:
    summary = "where a run stands: a line, and exit code 0 finished, 75 preempted, 1 failed, 3 running"
    command = commands.add_parser("status", help=summary, description=summary)
    command.add_argument("run", metavar="RUN", type=Path, help="run folder")
    command.set_defaults(function=_status)
    summary = "run a step that was not finite again in one process, and name the clip and the tensor"
    command = commands.add_parser("replay", help=summary, description=summary)
    command.add_argument("dump", metavar="DUMP", type=Path, help="folder RUN/dumps/step-NNN")
    command.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    command.set_defaults(function=_replay)


def _add_report(commands: argparse._SubParsersAction) -> None:
    summary = "one self-contained HTML page and JSON over finished runs"
    command = commands.add_parser("report", help=summary, description=summary)
    command.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run folders, in the order to show them")
    command.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder for report.html and report.json")
    command.add_argument("--pdf", action="store_true", help="print it to report.pdf, too, by an installed chromium")
    command.set_defaults(function=_report)


def _add_recipes(commands: argparse._SubParsersAction) -> None:
    summary = "list the shipped recipes, or print one"
    command = commands.add_parser("recipes", help=summary, description=summary)
    command.add_argument("name", metavar="NAME", nargs="?", help="recipe to print as it is written")
    command.set_defaults(function=_recipes)


def _runner(file: str, name: str) -> Callable[[argparse.Namespace], int | None]:
    """A command that hands its recipe to function ``name`` of ``runs/FILE.py``."""

    def run(options: argparse.Namespace) -> int | None:
        from mvd_ds.config import find_recipe, load_recipe

        recipe = load_recipe(options.recipe, options.overrides, None if name == "preflight" else options.command)
        return getattr(importlib.import_module(f"mvd_ds.runs.{file}"), name)(recipe, find_recipe(options.recipe).stem)

    return run


def _launch(options: argparse.Namespace) -> int:
    from mvd_ds.tools.launch.options import LaunchOptions
    from mvd_ds.tools.launch.supervisor import launch

    return launch(LaunchOptions.parsed(options))


def _evaluate(options: argparse.Namespace) -> None:
    from mvd_ds.config import EvaluateRecipe, find_recipe, load_recipe

    recipe = load_recipe(options.recipe, options.overrides, options.command)
    assert isinstance(recipe, EvaluateRecipe)
    from mvd_ds.runs.evaluate import evaluate
    from mvd_ds.tools.report.evaluation_page import write_evaluation_page

    folder = evaluate(recipe, find_recipe(options.recipe).stem)
    if os.environ.get("RANK", "0") == "0":
        write_evaluation_page(folder)


def _export(options: argparse.Namespace) -> None:
    from mvd_ds.tools.export import export

    export(options.source, options.folder, options.graph, options.from_format)


def _classify(options: argparse.Namespace) -> None:
    from mvd_ds.tools.classify import classify

    classify(options.folder, options.videos, options.top, options.segments, options.crops, options.device)


def _visualize(options: argparse.Namespace) -> None:
    from mvd_ds.tools.visualize import visualize

    visualize(**{name: value for name, value in vars(options).items() if name not in ("function", "command", "local_rank")})


def _prepare(options: argparse.Namespace) -> None:
    from mvd_ds.runs.prepare import options_of, prepare_videos

    prepare_videos(options.source, options.output, options.videos, options.classes, options_of(options))


def _synthesize(options: argparse.Namespace) -> None:
    from mvd_ds.runs.synthesize import synthesize

    synthesize(options.folder, options.train, options.val, options.seed, options.size, options.frames, options.workers)


def _status(options: argparse.Namespace) -> int:
    from mvd_ds.tools.status import show_status

    return show_status(options.run)


def _replay(options: argparse.Namespace) -> int:
    from mvd_ds.tools.replay import replay

    return replay(options.dump, options.device)


def _checkpoints(options: argparse.Namespace) -> None:
    from mvd_ds.tools.checkpoints import convert_checkpoint, list_checkpoints, prune_checkpoints

    if options.prune is not None:
        prune_checkpoints(options.folder, options.prune, options.keep_every)
    elif options.to is not None:
        convert_checkpoint(options.folder, options.output, options.step, options.ema)
    else:
        list_checkpoints(options.folder, options.verify)


def _report(options: argparse.Namespace) -> None:
    from mvd_ds.tools.report.report import write_report

    write_report(options.runs, options.output, options.pdf)


def _compare(options: argparse.Namespace) -> None:
    from mvd_ds.tools.compare import compare_runs

    compare_runs(options.runs, options.against, options.output)


def _convert(options: argparse.Namespace) -> None:
    from mvd_ds.tools.convert import convert

    convert(options.source, options.target, options.to, options.from_format, options.heads, options.decoder_heads)


def _doctor(options: argparse.Namespace) -> int:
    from mvd_ds.tools.doctor.doctor import answer_doctor, doctor

    if options.answer:
        return answer_doctor(options.answer, options.folder, options.token)
    return doctor(options.hostfile, options.json, options.folder)


def _plan(options: argparse.Namespace) -> int:
    from mvd_ds.tools.machine.devices import find_machine
    from mvd_ds.tools.plan.plan import make_plan, write_plan

    machine = find_machine(options.gpu, options.network, options.gpus_per_node, options.cores_per_node, options.efficiency)
    plan = make_plan(options.recipe, options.overrides, options.gpus, machine, options.clips, options.decode)
    return write_plan(plan, machine, options.json, options.plot)


def _recipes(options: argparse.Namespace) -> None:
    from mvd_ds.config import find_recipe, recipe_names

    if options.name:
        print(find_recipe(options.name).read_text(encoding="utf-8"), end="")
        return
    for name in recipe_names():
        first = find_recipe(name).read_text(encoding="utf-8").splitlines()[0].removeprefix("# What:").strip()
        print(f"{name:<30}{first}")
