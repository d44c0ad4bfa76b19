"""Faults of settings as one line each: key, value, what is wrong, and the setting that was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

from mvd_ds.config.base import Settings, without_secrets
from mvd_ds.config.reading import annotation_at
from mvd_ds.files import did_you_mean, one_line

SYNONYMS = {
    "optimizer.base_lr": "lr learning_rate blr base_learning_rate max_lr peak_lr",
    "optimizer.min_base_lr": "min_lr end_lr final_lr",
    "optimizer.weight_decay": "wd decay weightdecay",
    "optimizer.gradient_clipping": "clip_grad grad_clip max_norm max_grad_norm clip_grad_norm gradient_clip_val",
    "optimizer.betas": "opt_betas adam_betas",
    "optimizer.eps": "opt_eps adam_eps",
    "optimizer.ema_decay": "model_ema ema model_ema_decay",
    "schedule.epochs": "epochs num_epochs n_epochs max_epochs num_train_epochs",
    "schedule.steps": "steps num_steps max_steps iterations max_iters total_steps num_iters",
    "schedule.warmup_epochs": "warmup num_warmup_epochs",
    "schedule.warmup_steps": "num_warmup_steps warmup_iters",
    "batch.global": "batch_size bs global_batch_size total_batch_size train_batch_size",
    "batch.micro": "micro_batch_size batch_size_per_gpu per_device_train_batch_size train_micro_batch_size_per_gpu",
    "batch": "batch_size bs eval_batch_size",
    "data.clip.size_px": "img_size image_size input_size resolution crop_size size_px",
    "data.clip.frames": "num_frames n_frames clip_len frames clip_length",
    "data.clip.stride_frames": "sampling_rate frame_interval stride frame_stride",
    "data.manifest": "data_path dataset data_dir train_manifest data_root train_data",
    "data.root": "video_root videos prefix",
    "data.workers": "num_workers n_workers workers dataloader_num_workers",
    "data.clips_per_video": "num_sample repeated_sampling repeated_aug num_samples",
    "run.output": "output_dir out_dir output save_dir log_dir work_dir exp_dir",
    "run.seed": "seed random_seed",
    "run.device": "device",
    "run.resume": "auto_resume resume",
    "run.save_every_steps": "save_freq save_ckpt_freq save_steps checkpoint_interval",
    "run.log_every_steps": "log_interval print_freq logging_steps",
    "masking.ratio": "mask_ratio masking_ratio",
    "masking.kind": "mask_type mask_kind",
    "model.drop_path": "drop_path drop_path_rate",
    "engine.precision": "bf16 fp16 amp dtype precision mixed_precision",
    "engine.config": "deepspeed deepspeed_config ds_config",
    "engine.compile": "torch_compile compile",
    "weights": "pretrained finetune init_checkpoint checkpoint pretrained_weights model_path init_ckpt",
    "validation.manifest": "val_manifest val_data eval_data validation_manifest",
    "label_smoothing": "smoothing",
}
"""Names of other trainers for our settings."""


def explain(fault: Any, kind: type[Settings]) -> str:
    """Return one line for a fault that pydantic found.

    Args:
        fault: an entry of ``ValidationError.errors()``.
        kind: class of settings that was validated.
    """
    where = one_line(".".join(str(part) for part in fault["loc"]), 100)
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown setting; {_hint(fault['loc'], kind)}"
    message = re.sub(r"\S{101,}", lambda word: one_line(word[0], 100), fault["msg"].removeprefix("Value error, "))
    message = one_line(message, 1000)
    if fault["type"] == "missing":
        return f"{where}: is required and not given"
    if fault["type"] == "string_unicode":
        message = "is not UTF-8; rename the file or folder, or give a link to it"
    value = fault["input"]
    shown = "" if isinstance(value, dict | list) else f" {_shown(value)}"
    return f"{where}{shown}: {message}" if where else message


def _shown(value: Any) -> str:
    try:
        return one_line(without_secrets(repr(value)), 100)
    except (ValueError, RecursionError):  # numbers of more digits than Python writes
        return f"a very long {type(value).__name__}"


def _hint(loc: tuple[Any, ...], kind: type[Settings]) -> str:
    """Return the setting that was probably meant: by a synonym, by its name elsewhere, or by a name here that is near."""
    *parents, leaf = loc
    known = dict(_paths(kind))
    wanted = str(leaf).lower().replace("-", "_")
    meant = [path for path, names in SYNONYMS.items() if wanted in names.split() and known.get(path)]
    meant += [path for path in known if path.rpartition(".")[2] == wanted and path not in meant]
    if meant:
        parent = ".".join(map(str, parents))
        near = next((path for path in meant if path.rpartition(".")[0] == parent), meant[0])
        return f"did you mean '{near.rpartition('.')[2] if near.rpartition('.')[0] == parent else near}'?"
    names = _names_at(kind, tuple(parents))
    return did_you_mean(leaf, names, f"settings here are {', '.join(names)}")


def _paths(kind: Any, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield (dotted path, whether it takes a value) of every setting and group; NAME is a name that the user chooses."""
    for name, field in kind.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        inner = _settings_type(field.annotation)
        yield path, inner is None
        if inner is not None:
            yield from _paths(inner, f"{path}.NAME." if "dict[" in str(field.annotation) else f"{path}.")


def _names_at(kind: Any, loc: tuple[Any, ...]) -> list[str]:
    """Return the names of the settings in the group that ``loc`` leads to."""
    inner = _settings_type(annotation_at(kind, loc)) or (kind if not loc else None)
    return [field.alias or name for name, field in inner.model_fields.items()] if inner is not None else []


def _settings_type(annotation: Any) -> Any:
    """Return the class of settings inside ``X``, ``X | None`` or ``dict[str, X]``, or None."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    for inner in get_args(annotation):
        found = _settings_type(inner)
        if found is not None:
            return found
    return None
