"""The options of ``bench``; nothing heavy is imported before one of its measurements runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from mvd_ds.files import ConfigError
from mvd_ds.tools.parser import positive

SUMMARY = "measure what your files can feed and how fast a step is"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add a sub-command for everything that can be measured."""
    benches = parser.add_subparsers(title="what is measured", metavar="WHAT", required=True)
    _add_data(benches)
    _add_start(benches)
    _add_step(benches)
    _add_growth(benches)


def run(options: argparse.Namespace) -> int | None:
    """Measure what was asked for."""
    return options.measure(options)


def _add_data(benches: argparse._SubParsersAction) -> None:
    summary = "clips/s by reader and stage, the bottleneck, the number of cores needed, and the gain of preparing the files"
    data = benches.add_parser("data", help=summary, description=summary)
    data.add_argument("manifest", metavar="MANIFEST", help="manifest, or folder of videos, or the address of one")
    data.add_argument("overrides", metavar="key=value", nargs="*", help="settings, such as data.workers=8 data.clip.frames=8")
    data.add_argument(
        "--clips-per-second", type=float, metavar="RATE", help="rate that the training needs; the number of cores follows from it"
    )
    data.add_argument("--files", type=int, default=16, help="files to measure, drawn at random (default %(default)s)")
    data.add_argument("--clips", type=int, default=96, help="clips of a round (default %(default)s)")
    data.add_argument("--rounds", type=int, default=3, help="rounds, whose medians are shown (default %(default)s)")
    data.add_argument("--reference", action="store_true", help="also measure the usual pipeline: decord, Pillow, two float views")
    data.add_argument("--no-prepare", action="store_true", help="do not measure the gain of encoding the files anew")
    data.add_argument("--short-side", type=positive, metavar="PIXELS", help="scale larger videos down to this when encoding anew")
    data.add_argument("--output", type=Path, metavar="FILE", help="JSON file to write")
    data.add_argument(
        "--make-sample", type=int, default=0, metavar="COUNT", help="first write so many videos to the folder MANIFEST"
    )
    data.set_defaults(measure=_bench_data)


def _add_start(benches: argparse._SubParsersAction) -> None:
    summary = "seconds from the manifest to the first batch"
    start = benches.add_parser("start", help=summary, description=summary)
    start.add_argument("manifest", metavar="MANIFEST", help="manifest, or folder of videos, or the address of one")
    start.add_argument("overrides", metavar="key=value", nargs="*", help="settings, such as data.workers=8")
    start.add_argument("--output", type=Path, metavar="FILE", help="JSON file to write")
    start.set_defaults(measure=_bench_start)


def _add_step(benches: argparse._SubParsersAction) -> None:
    summary = "a training step beside the usual ways to write it, on equal weights and inputs; random weights, no data"
    step = benches.add_parser("step", help=summary, description=summary)
    step.add_argument("recipe", metavar="RECIPE", help="name of a shipped recipe that distills, or a YAML file")
    step.add_argument(
        "overrides", metavar="key=value", nargs="*", help="settings, such as batch.micro=16 masking.masks_per_clip=4"
    )
    geometry = "cpu: base widths, encoder and teachers 6 blocks deep, decoders 1, fp32, one clip (default: the recipe's own)"
    step.add_argument("--geometry", choices=("recipe", "cpu"), default="recipe", help=geometry)
    step.add_argument("--steps", type=positive, metavar="COUNT", help="timed steps of a turn (default: 10; 1 on a CPU)")
    step.add_argument("--warmup", type=int, metavar="COUNT", help="steps before them (default: 10; 0 on a CPU)")
    rounds = "rounds of two turns for every variant, in the order A B B A (default %(default)s)"
    step.add_argument("--rounds", type=positive, default=1, metavar="COUNT", help=rounds)
    yardsticks = "yardsticks to measure (default: all three); none: ours alone, whatever the recipe learns"
    step.add_argument("--against", nargs="+", choices=("P0", "P1", "P2", "none"), default=["P0", "P1", "P2"], help=yardsticks)
    step.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: a GPU where there is one")
    step.add_argument("--profile", type=Path, metavar="FOLDER", help="write a trace of one step of ours and of P1's there")
    step.add_argument("--output", type=Path, metavar="FILE", help="JSON file to write")
    step.set_defaults(measure=_bench_step)


def _add_growth(benches: argparse._SubParsersAction) -> None:
    """Answer the command's old name; it stands in no help."""
    # No argument may look like an option: whatever stood behind the old name gets the same answer.
    growth = benches.add_parser("growth", prefix_chars="\0", add_help=False)
    growth.add_argument("arguments", nargs="*")
    growth.set_defaults(measure=_growth_moved)


def _growth_moved(options: argparse.Namespace) -> None:
    raise ConfigError(
        "bench growth is no command any more; from the repository's root: PYTHONPATH=.:tests python -m benchmarks.growth RECIPE"
    )


def _bench_step(options: argparse.Namespace) -> int:
    from mvd_ds.tools.bench.step import StepBenchOptions
    from mvd_ds.tools.bench.step_table import bench_step

    measured = StepBenchOptions(
        options.geometry,
        options.steps,
        options.warmup,
        options.rounds,
        options.device,
        options.profile,
        tuple(name for name in dict.fromkeys(options.against) if name != "none"),
    )
    return bench_step(options.recipe, options.overrides, measured, options.output)


def _bench_start(options: argparse.Namespace) -> None:
    from mvd_ds.data.remote.addresses import place_of
    from mvd_ds.tools.bench.data_table import bench_start

    bench_start(place_of(options.manifest), options.overrides, options.output)


def _bench_data(options: argparse.Namespace) -> None:
    from mvd_ds.data.remote.addresses import place_of
    from mvd_ds.tools.bench.data import DataBenchOptions
    from mvd_ds.tools.bench.data_table import bench_data

    measured = DataBenchOptions(
        options.files,
        options.clips,
        options.rounds,
        options.clips_per_second,
        options.reference,
        not options.no_prepare,
        options.short_side,
    )
    bench_data(place_of(options.manifest), options.overrides, measured, options.output, options.make_sample)
