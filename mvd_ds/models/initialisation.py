"""Initial weights: a function of a seed and a parameter's name, of nothing else.

==============================  =====================================================  ============================
what                            video (VideoMAE, MVD)                                  image (MAE)
==============================  =====================================================  ============================
every Linear, packed qkv        Xavier-uniform, bias 0                                 the same
patch embedding, weight         kaiming-uniform, a = sqrt 5 (torch's ``Conv3d``)       Xavier-uniform over (D, rest)
patch embedding, bias           uniform within 1 / sqrt(fan in) (torch's ``Conv3d``)   the same
LayerNorm, RMSNorm, batch norm   weight 1, bias 0                                       the same
mask token                      normal, std 0.02, cut at one std                       normal, std 0.02
class token                     normal, std 1e-6                                       normal, std 0.02
registers                       normal, std 0.02                                       the same
LayerScale                      ``layer_scale``                                        the same
position tables                 fixed, no parameter                                    the same
learned positions               truncated normal, std 0.02                             the same
exponents of GeM and GGeM       ``pooling.exponent``, 3                                the same
log variances of targets        0                                                      the same
LoRA, down and up               kaiming-uniform, a = sqrt 5; 0                         the same
tokens and places of texts      normal, std 0.02 and 0.01                              the same
scale and bias of cosines       ``language.scale``, ``language.bias``                  the same
mixture of k encoder levels     normal, std 1 / sqrt k                                 the same
==============================  =====================================================  ============================

Every module draws from a generator of its own, seeded with (seed, name): one more teacher, another order of
construction or another number of processes changes no weight of the others. Nothing reads or moves torch's global generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from mvd_ds.models.blocks.style import LayerScale
from mvd_ds.models.classifiers.pooling import Pooling
from mvd_ds.models.cross_attention import LevelMixture
from mvd_ds.models.embed import LearnedToken, PatchEmbed, Position
from mvd_ds.models.linear import Linear, QueryKeyValue
from mvd_ds.models.lora import LowRank
from mvd_ds.models.readouts.label_head import LabelledBatchNorm
from mvd_ds.models.readouts.log_variances import LogVariances
from mvd_ds.models.text.head import CosineScale
from mvd_ds.models.text.tables import TokenTable

Module = TypeVar("Module", bound=nn.Module)


def initialise(model: Module, seed: int, prefix: str = "") -> Module:
    """Draw the initial weights of ``model`` and return it.

    Args:
        model: built from the modules of this room.
        seed: ``run.seed``.
        prefix: put before parameter names, so that two models of the same shape start differently.

    Raises:
        TypeError: if a module with parameters has no rule here.
    """
    for name, module in model.named_modules(prefix=prefix):
        initialise_module(name, module, seed)
    return model


def initialise_module(name: str, module: nn.Module, seed: int) -> None:
    """Draw the initial weights of one module's own parameters.

    Raises:
        TypeError: if it has parameters and no rule here.
    """
    drawn = Linear | QueryKeyValue | PatchEmbed | LearnedToken | Position | Pooling | LevelMixture | LowRank | TokenTable
    if isinstance(module, drawn):
        module.reset_parameters(_generator(seed, name))
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm | LayerScale | LabelledBatchNorm | LogVariances | CosineScale):
        module.reset_parameters()
    elif next(module.parameters(recurse=False), None) is not None:
        raise TypeError(f"no initial weights are defined for {name} ({type(module).__name__})")


def build_without_weights(construct: Callable[[], Module]) -> Module:
    """Return ``construct()`` on the CPU with uninitialised parameters, to be filled by ``initialise`` or a file.

    Constructors draw weights too; on the meta device this costs nothing and leaves the global generator alone.
    """
    with torch.device("meta"):
        model = construct()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty_like(parameter, device="cpu")))
    return model


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
