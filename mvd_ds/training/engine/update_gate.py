"""Updates that are not finite, kept from the weights by the device itself.

DeepSpeed 0.19 asks the device whether the norm of the gradient is finite before every update, and the host waits for the
answer with nothing queued behind it. Here the answer stays on the device, where torch's fused AdamW reads it: an update that
it is told of changes no weight, no moment and no count of steps. The host looks one step later, without holding anything up.

Under ZeRO-1 and 2 (``overlap_comm`` false, optimizer on the device) nothing waits between log steps then. DeepSpeed itself
waits at the end of every backward pass of ZeRO-3, for its stream of reductions, and wherever states are offloaded.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mvd_ds.training.engine.engine_shards import adam, flats
from mvd_ds.training.engine.protocol import Engine


class Verdict:
    """The answer, on its way from the device, whether the gate was open after an update."""

    def __init__(self, shut: Tensor) -> None:
        self._shut = torch.empty(shut.shape, pin_memory=shut.is_cuda).copy_(shut, non_blocking=True)
        self._arrived = torch.cuda.current_stream(shut.device).record_event() if shut.is_cuda else None

    def passed(self) -> bool:
        """Return whether the update was applied; waits until the device has come to it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return not self._shut.item()


class UpdateGate:
    """A gate before the optimizer of a training engine that keeps updates that are not finite from the weights.

    The first gradient whose norm is not finite, over all ranks, shuts it, and it stays shut: what the host had queued before
    it knew changes nothing either. All ranks have the same norm, so all gates are alike.

    Attributes:
        shut: fp32 scalar on the optimizer's device, 1 where the gate is shut, else 0.
    """

    def __init__(self, engine: Engine) -> None:
        """Args:
        engine: of ``start_student``.
        """
        self.shut = torch.zeros((), device=flats(engine)[0].device)
        # Where torch's gradient scaler says the same, and kernels look.
        adam(engine).found_inf = self.shut  # type: ignore[attr-defined]
        if engine.zero_optimization_stage() == 0:
            self._stand_before_torch(engine)
        else:
            self._stand_before_zero(engine.optimizer)

    def verdict(self) -> Verdict:
        """Return whether all updates so far have passed, as an answer that is on its way."""
        return Verdict(self.shut)

    def open(self) -> None:
        """Let updates pass again."""
        self.shut.zero_()

    def _stand_before_torch(self, engine: Any) -> None:
        """Watch the norm at stage 0, where DeepSpeed looks at none unless it clips, and then waits for it."""
        largest, optimizer = engine.gradient_clipping(), engine.optimizer
        engine.clip_fp32_gradients = lambda: None

        def look(*_: Any) -> None:
            parameters = [parameter for parameter in flats(engine) if parameter.grad is not None]
            optimizer._global_grad_norm = norm = self._square([parameter.grad for parameter in parameters]).sqrt()
            self._note(norm)
            if largest > 0:
                torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)

        optimizer.register_step_pre_hook(look)

    def _stand_before_zero(self, optimizer: Any) -> None:
        module, step = sys.modules[type(optimizer).__module__], optimizer.step

        def gated(*arguments: Any, **options: Any) -> None:
            with _replaced(module, "is_invalid_grad_norm", self._note):
                step(*arguments, **options)
            # DeepSpeed's bf16 optimizer says -1 of what is not finite, and the others infinity.
            norm = optimizer._global_grad_norm
            optimizer._global_grad_norm = torch.where(norm < 0, torch.inf, norm)

        def norm_of(gradients: list[Tensor], *_: Any) -> Tensor:
            """Return the norm as DeepSpeed does, but without copying a constant from the host, which waits."""
            square = self._square(gradients)
            dist.all_reduce(square, group=optimizer.dp_process_group)
            return square.sqrt()

        optimizer.step = gated
        optimizer.get_grad_norm_direct = norm_of
        # What it looks for in every gradient, the norm shows.
        optimizer.check_overflow = lambda *_, **__: None

    @torch.no_grad()
    def _square(self, gradients: list[Tensor]) -> Tensor:
        """Return the square of the L2 norm of all ``gradients``, fp32; 0 where a rank's share is padding."""
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
        return torch.stack([torch.zeros_like(self.shut), *norms]).square().sum()

    @torch.no_grad()
    def _note(self, norm: Tensor) -> bool:
        """Shut the gate for a ``norm`` that is not finite (-1 in DeepSpeed), and answer that it forbids no update."""
        is_bad = ~torch.isfinite(norm) | (norm < 0)
        self.shut.copy_(torch.maximum(self.shut, is_bad.to(self.shut)))
        return False


@contextlib.contextmanager
def _replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Have ``module`` find ``value`` under ``name`` inside."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
