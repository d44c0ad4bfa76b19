"""Descriptions of the network in a file, from shapes, names and what is written beside them; compared with what was asked."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mvd_ds.config import ENCODER_SIZES, ConfigError, DecoderSettings, EncoderSettings, Grid, HeadShape
from mvd_ds.models.formats.facts import depth_of, encoder_facts, mlp_ratio_of
from mvd_ds.models.formats.foreign import first_line
from mvd_ds.models.formats.reading import Checkpoint

#: Settings in which two encoders have to agree. Clip sizes are not among them: position tables are rebuilt for any grid.
ARCHITECTURE = (
    "kind",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "patch_px",
    "tubelet_frames",
    "position",
    "qkv_bias",
    "cls_token",
    "norm_eps",
    "rope_side",
    "registers",
    "norm",
    "mlp",
    "qk_norm",
    "layer_scale",
)
#: Heads of published networks by (width, depth); files do not say. Source: MVD, VideoMAE (and its version 2, giant), MAE.
PUBLISHED_HEADS = {
    (size["embed_dim"], size["depth"]): size["num_heads"] for name, size in ENCODER_SIZES.items() if name != "tiny"
}
PUBLISHED_HEADS[1408, 40] = 16
#: Heads of published decoders by width. Source: MVD 1.1, VideoMAE; MAE has 512 in 16.
PUBLISHED_DECODER_HEADS = {192: 3, 384: 6, 512: 8, 640: 8, 768: 12}
#: Tokens of a clip that a network is built for; published ones have up to 1e4.
LARGEST_TOKENS = 2**22
PUBLISHED_CLIP = {"frames": 16, "size_px": 224}


class Network(NamedTuple):
    """Everything that is needed to build the network of a file.

    Attributes:
        encoder: its encoder.
        decoder: what its decoders share; None without decoders.
        outputs: width of the target of each decoder.
        classifier: ``classes``, ``norm_eps`` and ``pooling``; None without a class head.
        clip: ``frames`` and ``size_px``.
        heads: what each target asks of the student, where decoders do not all have the shape ``decoder``.
    """

    encoder: EncoderSettings
    decoder: DecoderSettings | None
    outputs: dict[str, int]
    classifier: dict[str, Any] | None
    clip: dict[str, int]
    heads: dict[str, HeadShape] = {}  # noqa: RUF012 - a NamedTuple's default, never written to

    @property
    def grid(self) -> Grid:
        """Token grid (t, h, w)."""
        return self.encoder.grid(self.clip["frames"], self.clip["size_px"])


def _published_heads(checkpoint: Checkpoint, width: int, depth: int) -> int | None:
    return checkpoint.layout.heads.get((width, depth)) or PUBLISHED_HEADS.get((width, depth))


def differences(checkpoint: Checkpoint, settings: EncoderSettings) -> list[str]:
    """Return ``key is A in the file and B in the recipe`` for every setting that the file determines otherwise."""
    facts, found = encoder_facts(checkpoint), []
    for key in ARCHITECTURE:
        theirs, wanted = facts.get(key), getattr(settings, key)
        if key == "mlp_ratio":
            theirs, wanted = (None if ratio is None else int(settings.embed_dim * ratio) for ratio in (theirs, wanted))
        if key == "layer_scale":  # what the factors start from is no matter of weights
            theirs, wanted = (value is not None for value in (theirs, wanted))
        if key not in facts or theirs == wanted:
            continue
        if key == "norm_eps" and checkpoint.layout.name.startswith("hf_"):
            checkpoint.notes.append(f"transformers computes this network with norm_eps {theirs:g}, the recipe with {wanted:g}")
            continue
        found.append(f"{key} is {facts[key]} there and {getattr(settings, key)} in the recipe")
    published = _published_heads(checkpoint, settings.embed_dim, settings.depth)
    if "num_heads" not in facts and published not in (None, settings.num_heads):
        checkpoint.notes.append(
            f"published networks of width {settings.embed_dim} and depth {settings.depth} have {published} heads, "
            f"here {settings.num_heads} are asked for; the file does not say"
        )
    return found


def describe(
    checkpoint: Checkpoint,
    encoder: dict[str, Any] | None = None,
    decoder: dict[str, Any] | None = None,
    clip: dict[str, int] | None = None,
) -> Network:
    """Return the network of a file.

    Args:
        checkpoint: the file.
        encoder: encoder settings that the file does not determine, number of heads for example.
        decoder: the same for its decoders.
        clip: ``frames`` and ``size_px`` to build it for, if not those of the file.

    Raises:
        ConfigError: if something is known neither from the file nor from the arguments, or they contradict each other.
    """
    values = encoder_facts(checkpoint) | (encoder or {})
    if "num_heads" not in values:
        heads = _published_heads(checkpoint, values["embed_dim"], values["depth"])
        if heads is None:
            raise ConfigError(
                f"{checkpoint.origin}: the file does not say how many heads the encoder has; write one that does: "
                f"{_conversion(checkpoint, '--heads COUNT')}, or state num_heads: model.num_heads=COUNT in `finetune`, "
                "encoder={'num_heads': COUNT} in Python"
            )
        values["num_heads"] = heads
    if "position" not in values:
        raise ConfigError(
            f"{checkpoint.origin}: files fine-tuned by VideoMAE and by MVD look the same and have different position tables; "
            f"set format=videomae_finetuned or format=mvd_finetuned, or write a file that says it: "
            f"{_conversion(checkpoint, '--from videomae_finetuned')}"
        )
    try:
        settings = EncoderSettings.model_validate(values)
    except ValueError as error:
        raise ConfigError(f"{checkpoint.origin}: {first_line(error)}") from None
    wrong = [line.replace("the recipe", "what is stated") for line in differences(checkpoint, settings)]
    wrong = [line for line in wrong if not line.startswith("norm_eps")]
    if wrong:
        raise ConfigError(f"{checkpoint.origin}: {'; '.join(wrong)}")
    shapes = _heads(checkpoint)
    own = [HeadShape(shape.width, checkpoint.recipe.decoder) for shape in shapes.values()]
    if [*shapes.values()] != own or any(shape.decoder.attention != "self" for shape in own):
        return Network(settings, None, {}, None, _clip(checkpoint, settings, clip or {}), shapes)
    return Network(
        encoder=settings,
        decoder=_decoder(checkpoint, settings, decoder or {}),
        outputs={name: len(checkpoint.state[f"decoders.{name}.head.weight"]) for name in checkpoint.decoder_names},
        classifier=_classifier(checkpoint),
        clip=_clip(checkpoint, settings, clip or {}),
    )


def _conversion(checkpoint: Checkpoint, option: str) -> str:
    """Return the command that writes a copy of a file which says what the file does not."""
    return f"python -m mvd_ds convert {checkpoint.origin} FOLDER {option}"


def _heads(checkpoint: Checkpoint) -> dict[str, HeadShape]:
    """Return what each target of the file's recipe asks of the student; nothing where it has none, or no decoders."""
    found = {}
    for name, output in checkpoint.recipe.outputs.items() if checkpoint.recipe is not None and checkpoint.decoder_names else ():
        weight = checkpoint.state.get(f"decoders.{name}.head.weight")
        if weight is None:
            raise ConfigError(f"{checkpoint.origin}: the head of decoder '{name}' is missing")
        found[name] = output.head(len(weight))
    return found


def _decoder(checkpoint: Checkpoint, encoder: EncoderSettings, known: dict[str, Any]) -> DecoderSettings | None:
    names = checkpoint.decoder_names
    if not names:
        return None
    found: list[dict[str, Any]] = []
    for name in names:
        part = f"decoders.{name}"
        projection = checkpoint.state.get(f"{part}.projection.weight")
        if projection is None or f"{part}.head.weight" not in checkpoint.state:
            lost = "projection" if projection is None else "head"
            raise ConfigError(f"{checkpoint.origin}: the {lost} of decoder '{name}' is missing")
        width = projection.shape[0]
        depth = depth_of(checkpoint, part)
        found.append(
            {
                "embed_dim": width,
                "depth": depth,
                "projection_bias": f"{part}.projection.bias" in checkpoint.state,
                "mlp_ratio": mlp_ratio_of(checkpoint, part, width) if depth else 4.0,
            }
        )
    if any(values != found[0] for values in found):
        raise ConfigError(f"{checkpoint.origin}: its decoders differ in shape: {dict(zip(names, found, strict=True))}")
    stated = {key: value for key, value in checkpoint.stated.get("decoder", {}).items() if value is not None}
    values = found[0] | dict(checkpoint.layout.decoder) | stated | known
    if "num_heads" not in values:
        values["num_heads"] = _decoder_heads(checkpoint, encoder, found[0]["embed_dim"])
    settings = DecoderSettings.model_validate(values)
    require_decoder(settings, encoder, checkpoint.origin)
    return settings


def require_decoder(decoder: DecoderSettings, encoder: EncoderSettings, origin: str) -> None:
    """Refuse a decoder whose width its heads or its position table do not divide.

    Raises:
        ConfigError: naming both numbers.
    """
    if fault := decoder.fault(encoder):
        raise ConfigError(f"{origin}: {fault}")


def _decoder_heads(checkpoint: Checkpoint, encoder: EncoderSettings, width: int) -> int:
    if "decoder" in checkpoint.stated or width == encoder.embed_dim:
        return encoder.num_heads
    published = PUBLISHED_DECODER_HEADS.get(width)
    if encoder.kind == "image":
        published = 16 if width == 512 else None
    if published is None:
        raise ConfigError(
            f"{checkpoint.origin}: the file does not say how many heads its decoders have; write one that does: "
            f"{_conversion(checkpoint, '--decoder-heads COUNT')}"
        )
    return published


def _classifier(checkpoint: Checkpoint) -> dict[str, Any] | None:
    head = checkpoint.state.get("head.weight")
    if head is None:
        if checkpoint.layout.model == "classifier":
            raise ConfigError(
                f"{checkpoint.origin}: its class head is missing: {next(checkpoint.layout.sources('head.weight'))[0]}"
            )
        return None
    return {"norm_eps": None, "pooling": {}, **checkpoint.stated.get("classifier", {}), "classes": head.shape[0]}


def _clip(checkpoint: Checkpoint, encoder: EncoderSettings, known: dict[str, int]) -> dict[str, int]:
    found = dict(checkpoint.stated.get("clip", {}))
    grid = checkpoint.grids.get("encoder")
    learned = checkpoint.state.get("encoder.position.table")
    if learned is not None and encoder.kind == "image" and math.isqrt(len(learned)) ** 2 == len(learned):
        grid = (1, math.isqrt(len(learned)), math.isqrt(len(learned)))
    if not found and grid is not None and encoder.position != "sinusoid1d":
        found = {"frames": grid[0] * encoder.tubelet_frames, "size_px": grid[1] * encoder.patch_px}
    if not found:
        frames = 1 if encoder.kind == "image" else PUBLISHED_CLIP["frames"]
        found = {"frames": frames, "size_px": PUBLISHED_CLIP["size_px"] // encoder.patch_px * encoder.patch_px}
        if not known:
            checkpoint.notes.append(
                f"the file does not say its clip; built for {found['frames']} frames of {found['size_px']} px"
            )
    found |= known
    found = found if encoder.kind == "video" else found | {"frames": 1}
    tokens = found["frames"] * found["size_px"] ** 2 // (encoder.tubelet_frames * encoder.patch_px**2)
    if not 0 < tokens <= LARGEST_TOKENS:
        raise ConfigError(f"{checkpoint.origin}: clips of {found} are {tokens} tokens; 1 to {LARGEST_TOKENS} are built here")
    return found
