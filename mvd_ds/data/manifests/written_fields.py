"""The labels of a manifest as they are written, and the refusal of those that are no single class."""

from __future__ import annotations

from collections.abc import Iterator

from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.manifests.written_labels import is_class, is_several
from mvd_ds.files import ConfigError, one_line


def fields_of(manifest: Manifest, label: str) -> Iterator[tuple[int, bytes]]:
    """Yield index and label of every video, as it is written."""
    if manifest.refs.written is not None:
        for index in range(len(manifest.refs)):
            yield index, manifest.refs.label_field(index, label)
        return
    for index, number in enumerate(manifest.labels[:, manifest.label_names.index(label)].tolist()):
        yield index, str(number).encode()


def written_labels(manifest: Manifest, index: int) -> tuple[str, ...]:
    """Return all labels of a video, as they are written."""
    refs = manifest.refs
    if refs.written is None:
        return tuple(map(str, refs.labels[index].tolist()))
    return tuple(refs.label_field(index, name).decode() for name in refs.written.names)


def refuse_written(manifest: Manifest, label: str | None, origin: str) -> None:
    """Refuse a label whose column holds more than single classes, where a single class is wanted.

    Args:
        manifest: the videos.
        label: name of the label; None: the only one.
        origin: name of the manifest in messages.

    Raises:
        ConfigError: naming the first line that has something else.
    """
    written = manifest.refs.written
    if written is None:
        return
    if label is None and len(written.names) > 1:
        raise ConfigError(f"{origin}: has the labels {', '.join(written.names)}; choose one: label={written.names[0]}")
    wanted = label or written.names[0]
    for index, field in fields_of(manifest, wanted) if wanted in written.odd else ():
        if not is_class(field):
            what, task = ("several classes", "multilabel") if is_several(field) else ("a real number", "regression")
            raise ConfigError(
                f"{place_of(manifest, index, origin)}: label '{shown(field)}' is {what}, where one class is wanted; it is for "
                f"finetune with task={task}"
            )


def place_of(manifest: Manifest, index: int, origin: str) -> str:
    """Return the manifest and the line of a video, for messages."""
    return f"{origin}: {one_line(manifest.refs[index].where)}"


def shown(field: bytes) -> str:
    """Return a label as it is written, for messages."""
    return one_line(field[:200].decode(errors="replace"), 60)
