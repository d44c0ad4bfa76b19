"""Detection of the layout that a file has, and ``read_checkpoint``, the way in for files of all layouts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.models.formats import huggingface, own, published, vjepa2
from mvd_ds.models.formats.containers import CONFIG_NAME, Stored, open_stored, unwrap
from mvd_ds.models.formats.deepspeed_folder import find_checkpoint, read_checkpoint_folder
from mvd_ds.models.formats.processor import read_processor
from mvd_ds.models.formats.reading import Checkpoint, read_tensors
from mvd_ds.models.formats.rules import Layout

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        own.OWN,
        published.MVD,
        published.MVD_FINETUNED,
        published.VIDEOMAE,
        published.VIDEOMAE_FINETUNED,
        published.FINETUNED,
        published.VIDEOMAE_V2,
        published.MMACTION,
        published.MMACTION_BACKBONE,
        published.MAE,
        published.MAE_PRETRAINING,
        published.TIMM,
        huggingface.HF_VIDEOMAE,
        huggingface.HF_VIDEOMAE_PRETRAINING,
        huggingface.HF_VIDEOMAE_CLASSIFIER,
        huggingface.HF_VITMAE,
        huggingface.HF_VITMAE_PRETRAINING,
        vjepa2.HF_VJEPA2,
        vjepa2.VJEPA2,
        vjepa2.VJEPA2_1,
    )
}
"""Every layout by the name that ``format=`` takes."""


def read_checkpoint(source: str | Path | Mapping[str, Any], format: str | None = None) -> Checkpoint:
    """Read a file, a folder or a state dict in any known layout; nothing of it is executed.

    Args:
        source: path, or tensors by name (also as training scripts wrap them: ``{"model": ...}``).
        format: name of its layout in ``LAYOUTS``; None: it is detected.

    Raises:
        ConfigError: if it cannot be read, has no known layout, or is not whole; every fault is named.
    """
    if format is not None and format not in LAYOUTS:
        raise ConfigError(f"format '{format}' is not known; formats are {', '.join(LAYOUTS)}")
    if isinstance(source, Mapping):
        origin, stored = "state dict", unwrap(source, "state dict")
    else:
        origin = str(source)
        folder = find_checkpoint(Path(source)) if Path(source).is_dir() and not (Path(source) / CONFIG_NAME).is_file() else None
        stored = read_checkpoint_folder(folder) if folder is not None else open_stored(Path(source))
    layout = LAYOUTS[format] if format else detect(stored.tensors, stored.config, origin)
    checkpoint = read_tensors(layout, stored.tensors, origin)
    checkpoint.notes[:0] = stored.notes
    _read_config(checkpoint, stored)
    _look_for_final_norm(checkpoint, stored.tensors)
    if layout is vjepa2.VJEPA2 and "pos_embed" in stored.tensors:
        checkpoint.notes.append(
            "its position table is not used: V-JEPA 2 turns by place; V-JEPA 1 has these names and is not read"
        )
    if not isinstance(source, Mapping) and stored.config and checkpoint.layout not in (own.OWN, own.TOKENIZER):
        _read_processor(checkpoint, Path(source) if Path(source).is_dir() else Path(source).parent, stored.config)
    return checkpoint


def _read_config(checkpoint: Checkpoint, stored: Stored) -> None:
    """Take over what is written beside the tensors."""
    if own.is_own(stored.config):
        checkpoint.recipe = own.recipe_of(stored.config, checkpoint.origin)
        checkpoint.stated = own.stated_settings(stored.config, checkpoint.recipe, checkpoint.origin)
    elif own.is_tokenizer(stored.config):
        checkpoint.stated = own.tokenizer_settings(stored.config, checkpoint.origin)
    elif stored.config.get("model_type") in ("videomae", "vit_mae"):
        checkpoint.stated = huggingface.stated_settings(stored.config, checkpoint.origin)
    elif stored.config.get("model_type") == "vjepa2":
        checkpoint.stated = vjepa2.stated_settings(stored.config, checkpoint.origin)
    elif huggingface.is_videomae_v2(stored.config):
        checkpoint.stated = huggingface.stated_videomae_v2(stored.config, checkpoint.origin)
    elif checkpoint.layout.name.startswith("hf_"):
        checkpoint.notes.append("without its config.json: heads and epsilons are not known from the tensors")


def _read_processor(checkpoint: Checkpoint, folder: Path, config: Mapping[str, Any]) -> None:
    """Keep what a folder says about its pixels, and say so if they are not those that clips here have."""
    checkpoint.processor = processor = read_processor(folder, config)
    if processor is not None and not processor.is_ours:
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (processor.mean, processor.std))
        checkpoint.notes.append(
            f"it was trained on pixels of mean ({mean}) and deviation ({std}): a classifier in use normalises by these; "
            "teachers, probes, features and fine-tuning normalise by ImageNet's"
        )


def _look_for_final_norm(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> None:
    """State that there is no norm after the last block where a file has the norm of pooled tokens alone."""
    has_norm = any(name.startswith("encoder.norm.") for name in checkpoint.state)
    if checkpoint.layout.model != "encoder" or has_norm or "fc_norm.weight" not in tensors:
        return
    checkpoint.stated.setdefault("encoder", {})["final_norm"] = False
    checkpoint.notes.append(
        "it pools its tokens before their norm (fc_norm), so the encoder has no norm after its last block: targets are taken "
        "before it (target.norm none)"
    )


def detect(tensors: Mapping[str, Tensor], config: Mapping[str, Any], origin: str) -> Layout:
    """Return the layout of tensors, by their names and by what is written beside them.

    Raises:
        ConfigError: if it is none that is known.
    """

    def has(*starts: str) -> bool:
        return any(name.startswith(starts) for name in tensors)

    if own.is_tokenizer(config):
        return own.TOKENIZER
    if own.is_own(config) or any(".norm_attention." in name for name in tensors):
        return own.OWN
    if has("decoder_img.", "decoder_vid.", "down_img.", "down_vid.", "mask_token_img", "mask_token_vid"):
        return published.MVD
    if has("decoder_blocks.", "decoder_embed."):
        return published.MAE_PRETRAINING
    if has("encoder.blocks.", "encoder.patch_embed."):
        return published.VIDEOMAE
    if has("patch_embed.projection."):
        return published.MMACTION if has("cls_head.") else published.MMACTION_BACKBONE
    if has("blocks.", "patch_embed."):
        return _plain(tensors, config, origin)
    if has("encoder.embeddings.patch_embeddings.proj.", "vjepa2."):
        return vjepa2.HF_VJEPA2
    if has("embeddings.patch_embeddings.", "encoder.layer.", "videomae.", "vit."):
        return _hugging_face(tensors)
    names = ", ".join(list(tensors)[:4])
    raise ConfigError(f"{origin}: is in no format that is known ({names}, ...); formats are {', '.join(LAYOUTS)}")


def _plain(tensors: Mapping[str, Tensor], config: Mapping[str, Any], origin: str) -> Layout:
    """Return the layout of names without a prefix: an image ViT, V-JEPA 2, or a fine-tuned video model."""
    patch = tensors.get("patch_embed.proj.weight")
    is_image = patch.ndim == 4 if patch is not None else any(name.endswith("attn.qkv.bias") for name in tensors)
    if is_image:
        return published.TIMM if "architecture" in config or {"head.weight", "fc_norm.weight"} & tensors.keys() else published.MAE
    if any(name.endswith("attn.qkv.bias") for name in tensors):
        return vjepa2.VJEPA2_1 if any(name.startswith("norms_block.") for name in tensors) else vjepa2.VJEPA2
    if huggingface.is_videomae_v2(config):
        return published.VIDEOMAE_FINETUNED if "head.weight" in tensors else published.VIDEOMAE_V2
    if any(name.startswith(("fc_norm.", "head.")) for name in tensors):
        return published.FINETUNED
    if "pos_embed" in tensors:
        return published.MVD
    raise ConfigError(
        f"{origin}: an encoder that may be VideoMAE's or MVD's; set format to mvd, videomae_finetuned or mvd_finetuned, or write "
        f"a file that says it: python -m mvd_ds convert {origin} FOLDER --from mvd"
    )


def _hugging_face(tensors: Mapping[str, Tensor]) -> Layout:
    starts = {name.split(".")[0] for name in tensors}
    if "vit" in starts or any(name.startswith("decoder.decoder_embed") for name in tensors):
        return huggingface.HF_VITMAE_PRETRAINING
    if "videomae" in starts:
        is_classifier = starts & {"classifier", "fc_norm"}
        return huggingface.HF_VIDEOMAE_CLASSIFIER if is_classifier else huggingface.HF_VIDEOMAE_PRETRAINING
    if any(name.startswith(("embeddings.cls_token", "embeddings.position_embeddings")) for name in tensors):
        return huggingface.HF_VITMAE
    return huggingface.HF_VIDEOMAE
