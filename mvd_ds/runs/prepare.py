"""The run of `prepare`: look at videos, encode and pack them, with progress."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mvd_ds.data.manifests.listings import read_listing
from mvd_ds.data.prepare.encode import DEFAULT_QUALITY, QUALITIES, Encoding
from mvd_ds.data.prepare.folder import (
    WORK,
    digest_of,
    folder_of,
    is_prepared,
    manifest_in,
    remember_inputs,
    require_inputs,
    require_settings,
    split_of,
)
from mvd_ds.data.prepare.jobs import Tell
from mvd_ds.data.prepare.options import PrepareOptions
from mvd_ds.data.prepare.parts import Part, is_done
from mvd_ds.data.prepare.prepare import prepare, prepare_part
from mvd_ds.data.prepare.report import report_lines
from mvd_ds.files import ConfigError, one_line
from mvd_ds.training.console import StepProgress, say

_SHOWN = 20
"""Most lines of the report on the terminal; the rest is in the file."""


def options_of(asked: argparse.Namespace) -> PrepareOptions:
    """Return the options that the command line asks for.

    Raises:
        ConfigError: for a quality out of range.
    """
    encoding = None
    if asked.encode:
        quality = asked.quality or DEFAULT_QUALITY[asked.encode]
        least, most = QUALITIES[asked.encode]
        if not least <= quality <= most:
            raise ConfigError(f"--quality {quality}: {asked.encode} takes {least} to {most}; smaller is better")
        encoding = Encoding(asked.encode, quality, asked.group, asked.short_side)
    shard_bytes = asked.shard_mib << 20 if asked.shards else 0
    return PrepareOptions(asked.verify, encoding, shard_bytes, asked.workers, asked.seconds_per_file)


def prepare_videos(
    source: Path | str,
    output: Path,
    videos: Path | str | None,
    classes: Path | str | None,
    options: PrepareOptions,
    split: str | None = None,
    part: Part | None = None,
    joins: bool = False,
) -> None:
    """Prepare the videos of ``source`` in ``output`` and report the result; finished work is not done again.

    Args:
        source: path or address of a folder or list of videos.
        output: folder to write.
        videos: path or address of the folder of the videos that a list names; None: the list's own.
        classes: path or address of the file of class names; None: the list's own.
        options: what is done with the videos.
        split: name of the manifest; None: what ``source`` is called after.
        part: do this part alone, and write no manifest.
        joins: write what the parts, which are all done, have found out.

    Raises:
        ConfigError: for a list that cannot be read, a folder that is in use or of another source, or if no video is good.
    """
    if split is not None and not re.fullmatch(r"[\w-]+", split):
        raise ConfigError(f"--split {one_line(split)}: is a name, such as val, of letters, digits, '_' and '-'")
    manifest = manifest_in(output, split or split_of(source))
    folder = folder_of(manifest)
    where, named = (str(path.resolve()) if isinstance(path, Path) else path for path in (videos, classes))
    options = options._replace(workers=options.workers or os.cpu_count() or 1, videos=where, classes=named)
    if is_prepared(manifest):
        require_settings(source, folder, options)
        if isinstance(source, str) or source.exists():
            require_inputs(folder, digest_of(source, videos, classes))
        say(f"{one_line(manifest)} is prepared; nothing to do (delete it and {one_line(folder)} to prepare it anew)")
        return
    listing = read_listing(source, videos, classes)
    digest = digest_of(source, videos, classes)
    if part is not None and is_done(folder / WORK, part, digest):
        require_settings(source, folder, options)
        say(f"part {part.number}/{part.total} of {one_line(manifest)} is done; nothing to do")
        return
    with _progress() as tell:
        if part is not None:
            good, looked_at = prepare_part(source, listing, manifest, options, tell, digest, part)
            say(f"part {part.number}/{part.total}: {good} of {looked_at} videos are good; when all are done: prepare ... --join")
            return
        report = prepare(source, listing, manifest, options, tell, digest, joins)
        remember_inputs(folder, digest)
    lines = report_lines(report)
    for line in lines[:_SHOWN]:
        say(line)
    if len(lines) > _SHOWN:
        say(f"... {len(lines) - _SHOWN} lines more in {one_line(folder / 'report.txt')}")
    say(f"data.manifest={one_line(manifest)}")


@contextmanager
def _progress() -> Iterator[Tell]:
    """Yield a function that shows the progress of each phase."""
    bars: dict[str, StepProgress] = {}

    def tell(phase: str, done: int, total: int) -> None:
        if phase not in bars:
            for bar in bars.values():
                bar.close()
            bars[phase] = StepProgress(phase, done, total, enabled=True)
        if done:
            bars[phase].update(done, "files")

    try:
        yield tell
    finally:
        for bar in bars.values():
            bar.close()
