"""Layouts of published PyTorch files: MAE, VideoMAE and VideoMAE v2, MVD; names and shapes only.

==================  ===============================  ==========================================  ========================
layout              encoder                          decoder                                     position tables
==================  ===============================  ==========================================  ========================
mae                 timm's names, ``qkv.bias``       none, or ``decoder_blocks``                 in the file, 2-D sin-cos
videomae            ``encoder.``, q and v biases     ``decoder.``, bias-free projection          not in the file, 1-D
mvd                 no prefix, q and v biases        ``decoder_img``, ``decoder_vid``            in the file, 3-D sin-cos
videomae_v2         no prefix, q and v biases        none; ``fc_norm`` or ``norm``               not in the file
mmaction2           the same, ``mlp.layers``         ``fc_norm`` and ``cls_head``                in the file, 1-D
videomae_finetuned  no prefix, no ``norm``           ``fc_norm`` and ``head``                    not in the file
mvd_finetuned       the same                         the same                                    not in the file
==================  ===============================  ==========================================  ========================

VideoMAE v2 has VideoMAE's names. Fine-tuned files of VideoMAE and of MVD cannot be told apart by their content, yet their
position tables differ: who loads one says which it is.
"""

from __future__ import annotations

from mvd_ds.models.formats.rules import FrozenTable, Ignored, Layout, Rule, block_rules

_MAE_ENCODER = (
    Rule("patch_embed.proj.weight", "encoder.patch_embed.weight", "frame"),
    Rule("patch_embed.proj.bias", "encoder.patch_embed.bias"),
    Rule("cls_token", "encoder.cls_token.weight"),
    *block_rules("blocks", "encoder.blocks", "full"),
    Rule("norm.{w}", "encoder.norm.{w}"),
)
_MAE_TABLE = FrozenTable("pos_embed", "sincos2d", has_cls=True)
_MAE_SETTINGS = {"kind": "image", "position": "sincos2d", "qkv_bias": "full", "cls_token": True, "final_norm": True}

MAE = Layout(
    name="mae",
    title="MAE encoder",
    model="encoder",
    rules=_MAE_ENCODER,
    settings=_MAE_SETTINGS,
    tables=(_MAE_TABLE,),
)
MAE_PRETRAINING = Layout(
    name="mae_pretraining",
    title="MAE pretraining",
    model="predictor",
    rules=(
        *_MAE_ENCODER,
        Rule("decoder_embed.{w}", "decoders.pixels.projection.{w}"),
        Rule("mask_token", "decoders.pixels.mask_token.weight"),
        *block_rules("decoder_blocks", "decoders.pixels.blocks", "full"),
        Rule("decoder_norm.{w}", "decoders.pixels.norm.{w}"),
        Rule("decoder_pred.{w}", "decoders.pixels.head.{w}"),
    ),
    settings=_MAE_SETTINGS,
    tables=(_MAE_TABLE, FrozenTable("decoder_pos_embed", "sincos2d", has_cls=True, of="pixels")),
    decoder={"projection_bias": True},
)

VIDEOMAE = Layout(
    name="videomae",
    title="VideoMAE pretraining",
    model="predictor",
    rules=(
        Rule("encoder.patch_embed.proj.{w}", "encoder.patch_embed.{w}"),
        *block_rules("encoder.blocks", "encoder.blocks", "query_value"),
        Rule("encoder.norm.{w}", "encoder.norm.{w}"),
        Rule("encoder_to_decoder.weight", "decoders.pixels.projection.weight"),
        Rule("mask_token", "decoders.pixels.mask_token.weight"),
        *block_rules("decoder.blocks", "decoders.pixels.blocks", "query_value"),
        Rule("decoder.norm.{w}", "decoders.pixels.norm.{w}"),
        Rule("decoder.head.{w}", "decoders.pixels.head.{w}"),
    ),
    settings={"kind": "video", "position": "sinusoid1d", "qkv_bias": "query_value", "final_norm": True},
    tables=(
        FrozenTable("encoder.pos_embed", "sinusoid1d", is_written=False),
        FrozenTable("pos_embed", "sinusoid1d", is_written=False, of="pixels"),
    ),
    decoder={"projection_bias": False},
)

_PLAIN_ENCODER = (
    Rule("patch_embed.proj.{w}", "encoder.patch_embed.{w}"),
    Rule("cls_token", "encoder.cls_token.weight"),
    *block_rules("blocks", "encoder.blocks", "query_value"),
)


def _mvd_decoder(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(f"down_{theirs}.{{w}}", f"decoders.{ours}.projection.{{w}}"),
        Rule(f"mask_token_{theirs}", f"decoders.{ours}.mask_token.weight"),
        *block_rules(f"decoder_{theirs}.blocks", f"decoders.{ours}.blocks", "query_value"),
        Rule(f"decoder_{theirs}.norm.{{w}}", f"decoders.{ours}.norm.{{w}}"),
        Rule(f"decoder_{theirs}.head.{{w}}", f"decoders.{ours}.head.{{w}}"),
    )


MVD = Layout(
    name="mvd",
    title="MVD student",
    model="predictor",
    rules=(
        *_PLAIN_ENCODER,
        Rule("norm.{w}", "encoder.norm.{w}"),
        *_mvd_decoder("img", "image"),
        *_mvd_decoder("vid", "video"),
    ),
    settings={"kind": "video", "position": "sincos3d", "qkv_bias": "query_value", "final_norm": True},
    tables=(
        FrozenTable("pos_embed", "sincos3d"),
        FrozenTable("pos_embed_img", "sincos3d", of="image"),
        FrozenTable("pos_embed_vid", "sincos3d", of="video"),
    ),
    decoder={"projection_bias": True},
)

_FINETUNED_RULES = (*_PLAIN_ENCODER, Rule("fc_norm.{w}", "norm.{w}"), Rule("head.{w}", "head.{w}"))

VIDEOMAE_FINETUNED = Layout(
    name="videomae_finetuned",
    title="VideoMAE fine-tuned",
    model="classifier",
    rules=_FINETUNED_RULES,
    settings={"kind": "video", "position": "sinusoid1d", "qkv_bias": "query_value", "final_norm": False},
    tables=(FrozenTable("pos_embed", "sinusoid1d", is_written=False),),
)
MVD_FINETUNED = Layout(
    name="mvd_finetuned",
    title="MVD fine-tuned",
    model="classifier",
    rules=_FINETUNED_RULES,
    settings={"kind": "video", "position": "sincos3d", "qkv_bias": "query_value", "final_norm": False},
    tables=(FrozenTable("pos_embed", "sincos3d", is_written=False),),
)
FINETUNED = Layout(
    name="finetuned",
    title="fine-tuned by VideoMAE or MVD",
    model="classifier",
    rules=_FINETUNED_RULES,
    settings={"kind": "video", "qkv_bias": "query_value", "final_norm": False},
)
VIDEOMAE_V2 = Layout(
    name="videomae_v2",
    title="VideoMAE v2 encoder, as its hub folders have it",
    model="encoder",
    rules=(*_PLAIN_ENCODER, Rule("norm.{w}", "encoder.norm.{w}")),
    settings={"kind": "video", "position": "sinusoid1d", "qkv_bias": "query_value"},
    tables=(FrozenTable("pos_embed", "sinusoid1d", is_written=False),),
    ignored=(Ignored("fc_norm.{w}", "norm of the pooled tokens: an encoder has none"),),
)

_MMACTION_ENCODER = tuple(
    rule._replace(
        theirs=rule.theirs.replace("patch_embed.proj.", "patch_embed.projection.")
        .replace("mlp.fc1.", "mlp.layers.0.0.")
        .replace("mlp.fc2.", "mlp.layers.1.")
    )
    for rule in _PLAIN_ENCODER
)
_MMACTION_SETTINGS = {"kind": "video", "position": "sinusoid1d", "qkv_bias": "query_value"}
_MMACTION_TABLE = FrozenTable("pos_embed", "sinusoid1d", is_written=False)
_MMACTION_IGNORED = (Ignored("data_preprocessor.{rest}", "mean and deviation of its pixels"),)
MMACTION = Layout(
    name="mmaction2",
    title="mmaction2 VideoMAE classifier",
    model="classifier",
    rules=(*_MMACTION_ENCODER, Rule("fc_norm.{w}", "norm.{w}"), Rule("cls_head.fc_cls.{w}", "head.{w}")),
    settings=_MMACTION_SETTINGS | {"final_norm": False},
    tables=(_MMACTION_TABLE,),
    ignored=_MMACTION_IGNORED,
)
MMACTION_BACKBONE = Layout(
    name="mmaction2_backbone",
    title="mmaction2 VideoMAE backbone",
    model="encoder",
    rules=(*_MMACTION_ENCODER, Rule("norm.{w}", "encoder.norm.{w}")),
    settings=_MMACTION_SETTINGS,
    tables=(_MMACTION_TABLE,),
    ignored=(*_MMACTION_IGNORED, Ignored("fc_norm.{w}", "norm of the pooled tokens: an encoder has none")),
)
TIMM = Layout(
    name="timm",
    title="timm image ViT",
    model="encoder",
    rules=_MAE_ENCODER,
    settings=_MAE_SETTINGS,
    tables=(_MAE_TABLE,),
    ignored=(
        Ignored("head.{w}", "class head: a teacher has none"),
        Ignored("fc_norm.{w}", "norm of the class head: a teacher has none"),
    ),
)
