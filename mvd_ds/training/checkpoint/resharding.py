"""The state of a run put into an engine of any layout: another number of processes, another ZeRO stage, or the same.

DeepSpeed's own ways are not taken. Its plain loading runs pickled code, knows one layout only, and puts the weight decay
of the checkpoint in place of the recipe's. Its universal checkpoint under ZeRO-3 gives every parameter group the first
one's settings and lets all groups share one step counter, cannot change stages, drops the moving average, and writes
everything twice more. Here masters, moments and average are copied run by run of elements, exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.models.formats.zero_shards import AVERAGE, MASTER, MOMENTS, ZeroShards
from mvd_ds.training.ema import Ema
from mvd_ds.training.engine.engine_shards import adam, flats, held, masters, new_moments, spread_masters
from mvd_ds.training.engine.protocol import Engine


@torch.no_grad()
def load_shards(engine: Engine, ema: Ema, shards: ZeroShards) -> None:
    """Put weights, moments and moving average into a new engine. Collective.

    Learning rate and weight decay of the parameter groups stay those of the recipe. An average that the checkpoint does
    not have starts at its weights.
    """
    targets = {MASTER: masters(engine)} | _moments(engine, shards)
    if ema.active and AVERAGE in shards.kinds:
        targets[AVERAGE] = ema.averages
    for run in held(engine):
        for kind, tensors in targets.items():
            part = shards.part(kind, run.name, run.first, run.size)
            tensors[run.flat].detach().view(-1).narrow(0, run.offset, run.size).copy_(part)
    spread_masters(engine)
    if AVERAGE not in targets:
        ema.restart()


def require_same_parameters(engine: Engine, shards: ZeroShards) -> None:
    """Raise where the trained parameters are not those of the checkpoint.

    Raises:
        ConfigError: naming the first that is missing, left over, or of another shape.
    """
    own = {
        name: tuple(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in engine.module.named_parameters()
        if parameter.requires_grad
    }
    for name in sorted(own.keys() | shards.shapes.keys()):
        if own.get(name) != shards.shapes.get(name):
            raise ConfigError(
                f"{shards.folder}: is of another model: {name} has shape {shards.shapes.get(name, 'none')} there, "
                f"{own.get(name, 'none')} here"
            )


def _moments(engine: Engine, shards: ZeroShards) -> dict[str, list[Tensor]]:
    """Return new moments of every flat tensor, with the step count of the checkpoint; empty before its first step."""
    if not set(MOMENTS) <= set(shards.kinds):
        return {}
    optimizer = adam(engine)
    made = []
    for flat in flats(engine):
        made.append(new_moments(engine, flat, MOMENTS))
        # A counter of its own for each: a shared one would count once per flat tensor.
        on_device = any(optimizer.defaults.get(key) for key in ("fused", "capturable"))
        device = flat.device if on_device else "cpu"
        optimizer.state[flat]["step"] = torch.tensor(shards.adam_steps, dtype=torch.float32, device=device)
    return {kind: [moments[kind] for moments in made] for kind in MOMENTS}
