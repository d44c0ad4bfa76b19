"""Networks as plain ``nn.Module``s: they know neither DeepSpeed nor processes.

=========================  ==========================================================================================
``linear``                 ``Linear`` and the packed query-key-value projection
``attention``              one attention module; the kernels behind it and the one function that chooses
``layers``                 the block, drop path, activation checkpointing
``blocks``                 what blocks differ in: norms, MLPs, rotary positions, LayerScale
``embed``                  patches, fixed position tables, learned single tokens
``vit``                    ``VisionTransformer``: the encoder of students and teachers
``masked``                 ``MaskedPredictor``: an encoder and one decoder per target
``teachers``               ``Teacher``: a frozen network that gives features on the student's grid
``networks``               families of networks that can teach: ours, and any image network of timm
``initialisation``         initial weights, from a seed and a parameter's name alone
``weights``                model folders: written whole, read strictly
``formats``                weights of others: MAE, VideoMAE, MVD, Hugging Face, ZeRO checkpoints
``building``               models from files and descriptions, and models in the formats of others
``classifier``             ``Classifier``: pooling, norm and a class head
``classifier_folder``      folders of classifiers, with names of classes and how clips are cut
``init_from_checkpoint``   classifiers and students whose encoder comes from a pretrained file
``heads``                  heads on a frozen encoder: attentive pooling, visual query tuning
``precision``              what runs in bf16 and what stays fp32
``pooling``                one vector per clip: mean, cls, max, GeM, GGeM
``adaptors``               heads of teachers that stay on an exported encoder, and zero-shot classes by text vectors
``flops``                  floating point operations per clip, by part; ``block_flops`` counts a block
``blueprint``              models that take no memory yet
``acceleration``           compiled blocks, CUDA graphs and FP8; nothing else of this room imports it
=========================  ==========================================================================================

``layers.Block`` is the unit of activation checkpointing and the leaf of ZeRO-3. Every parameter is used inside the
``forward`` of the module that owns it, because ZeRO-3 gathers parameters in hooks around that ``forward``.
"""

from mvd_ds.models.attention import choose_kernel
from mvd_ds.models.formats.strict import load_strictly
from mvd_ds.models.layers import Block
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.models.teachers import Teacher, build_teacher
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.models.weights import save_model

__all__ = [
    "Block",
    "MaskedPredictor",
    "Teacher",
    "VisionTransformer",
    "build_teacher",
    "choose_kernel",
    "load_strictly",
    "save_model",
]
