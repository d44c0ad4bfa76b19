"""``python -m mvd_ds convert IN [OUT] [--to FORMAT]`` prints what a file holds and writes it in another format."""

from __future__ import annotations

from pathlib import Path

from mvd_ds.config import ConfigError, dump
from mvd_ds.config.tasks import CLASSES
from mvd_ds.files import did_you_mean
from mvd_ds.models.building import build_network, fill
from mvd_ds.models.classifiers.classifier_folder import class_names, task_of
from mvd_ds.models.formats import Checkpoint, Network, describe, read_checkpoint, table_lines
from mvd_ds.models.formats.containers import model_of, read_safetensors
from mvd_ds.models.formats.own import FORMAT
from mvd_ds.models.saving import WRITTEN, save_as
from mvd_ds.models.text.own_files import with_own_text
from mvd_ds.models.weights import model_file, save_model
from mvd_ds.tools.convert_in_order import ORDERED, TO_TIMM
from mvd_ds.training.liveness.folder_owner import FolderOwner


def convert(
    source: Path,
    target: Path | None,
    to: str = FORMAT,
    from_format: str | None = None,
    heads: int | None = None,
    decoder_heads: int | None = None,
) -> None:
    """Read ``source``, print its format and the table of what went where, and write it to ``target``.

    Args:
        source: file or folder in any format that is read.
        target: file or folder to write; None: only print.
        to: format to write.
        from_format: format of the source where it cannot be told from its content.
        heads: attention heads of the encoder where the file does not say.
        decoder_heads: the same of its decoders.

    Raises:
        ConfigError: if the source is not whole, or cannot be held by the other format.
    """
    if to == "list":
        print("\n".join(f"{name:<21}{what}" for name, what in (WRITTEN | {f"{TO_TIMM}NAME": ORDERED}).items()))
        return
    if to not in WRITTEN:
        hint = did_you_mean(to, WRITTEN, f"formats are {', '.join(WRITTEN)}")
        raise ConfigError(f"format '{to}' is not written; {hint}")
    source = model_of(source)
    if target is not None and target.exists() and (target.is_dir() != _writes_folder(to)):
        raise ConfigError(f"{target}: is a {'folder' if target.is_dir() else 'file'}, and format '{to}' is the other")
    checkpoint = read_checkpoint(source, from_format)
    network = describe(
        checkpoint, {} if heads is None else {"num_heads": heads}, {} if decoder_heads is None else {"num_heads": decoder_heads}
    )
    _require_whole(checkpoint, network)
    if target is None:
        _print_source(checkpoint, network)
        return
    # Written first: what the format cannot hold is refused in one line, not below a table of hundreds.
    with FolderOwner(target, "OUT") as owner:
        if _writes_folder(to):
            owner.take()
        notes = _write(checkpoint, network, source, target, to)
    _print_source(checkpoint, network)
    for note in notes:
        print(f"note: {note}")
    print(f"wrote {target} ('{to}': {WRITTEN[to]})")


def _write(checkpoint: Checkpoint, network: Network, source: Path, target: Path, to: str) -> list[str]:
    """Write the model and return notes on what others will compute otherwise.

    Raises:
        ConfigError: if the format cannot hold it.
    """
    if to == FORMAT and checkpoint.recipe is not None:
        recipe = with_own_text(checkpoint.recipe, source.parent if source.is_file() else source)
        # The layout has no place for a text tower, which is not known to others.
        tower = {} if recipe.language is None else read_safetensors(model_file(source, "convert"))[0]
        state = {name: value for name, value in tower.items() if name.startswith("language.")} | checkpoint.state
        save_model(target, state, recipe, {"converted_from": str(source)})
        return []
    if network.classifier is not None and (task := task_of(source)) != CLASSES:
        raise ConfigError(f"{source}: tells of task {task}, which no other format says; `export` writes its folder and graphs")
    classes = class_names(source, network.classifier["classes"]) if network.classifier is not None else ()
    return save_as(checkpoint.state, network, target, to, str(source), classes)


def _require_whole(checkpoint: Checkpoint, network: Network) -> None:
    """Check the tensors against the model that they describe, as loading would.

    Raises:
        ConfigError: if one is missing, unexpected or of another shape.
    """
    fill(build_network(network), checkpoint)


def _print_source(checkpoint: Checkpoint, network: Network) -> None:
    print(f"{checkpoint.origin}: {checkpoint.layout.title} ('{checkpoint.layout.name}')")
    print("encoder: " + ", ".join(f"{key} {value}" for key, value in dump(network.encoder).items() if value is not None))
    if network.decoder is not None:
        print(f"decoders: {', '.join(f'{name} -> {width}' for name, width in network.outputs.items())}; " + _line(network))
    for name, shape in network.heads.items():
        print(f"head {name}: {shape.tokens} -> {shape.width}, depth {shape.decoder.depth}")
    if network.classifier is not None:
        print(f"classes: {network.classifier['classes']}")
    print(f"clip: {network.clip['frames']} frames of {network.clip['size_px']} px")
    for line in table_lines(checkpoint.rows):
        print(f"  {line}")
    for note in checkpoint.notes:
        print(f"note: {note}")


def _line(network: Network) -> str:
    assert network.decoder is not None
    return ", ".join(f"{key} {value}" for key, value in dump(network.decoder).items() if value is not None)


def _writes_folder(to: str) -> bool:
    return WRITTEN[to].startswith("folder")
