"""The interfaces of the parts that the training loop is given: loader, objective, validation, pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from mvd_ds.objectives.moving_statistics import Statistics
from mvd_ds.objectives.terms import LossTerms

if TYPE_CHECKING:
    from mvd_ds.training.reporting.metrics import MetricsWriter

Inspect = Callable[[str, Tensor], None]
"""A function of a tensor's name and the tensor."""


class Loader(Protocol):
    """The micro batches of one rank, the same ones for the same step however often they are read."""

    steps_per_epoch: int
    """Optimizer steps of an epoch."""
    clips_in_manifest: int
    """Clips of an epoch."""

    def batches(self, first_step: int, last_step: int) -> Iterator[Any]:
        """Yield the micro batches of steps ``first_step`` to ``last_step - 1``."""
        ...

    def again(self, step: int) -> list[Any]:
        """Return the micro batches of ``step`` once more, the same to the byte."""
        ...

    def path_of(self, index: int) -> str:
        """Return the path of the video with number ``index``, as ``sample`` of a batch counts."""
        ...

    def seen(self, done: int) -> dict[str, float]:
        """Return metrics of what was shown in ``done`` steps of each of several manifests."""
        ...

    def agree(self, done: int, gather: Callable[[Any], list[Any]]) -> None:
        """Make what the ranks know of broken videos common after ``done`` steps. Collective."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, as JSON values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the ``state`` of a checkpoint."""
        ...

    def close(self) -> None:
        """Stop the workers."""
        ...


class Batches(Protocol):
    """The micro batches of one rank on their device, in order."""

    @property
    def held_bytes(self) -> int:
        """Bytes of the batch that was taken last and of the next one."""
        ...

    def __next__(self) -> Any:
        """Return the next micro batch."""
        ...

    def fetch_ahead(self) -> None:
        """Begin to bring the next micro batch, while the device is busy."""
        ...


class Objective(Protocol):
    """The function of a micro batch that training minimises."""

    names: tuple[str, ...]
    """Names of its losses, the keys of ``LossTerms.terms``."""
    inspect: Inspect | None
    """Called with what frozen networks gave, if set: their targets are watched like losses where a step was not finite."""
    statistics: dict[str, Statistics]
    """Statistics that it keeps of its targets, by dotted name: collected by its calls, moved at the end of a step."""

    def observe(self, batch: Any) -> None:
        """Collect the statistics of one micro batch without learning from it, for the calibration."""
        ...

    def prepare(self, batches: Iterable[Any]) -> Iterable[Any]:
        """Return the micro batches of a step, after a look at all of them where a loss is over the whole step. Collective."""
        ...

    def __call__(self, batch: Any, measure: bool) -> LossTerms:
        """Return the losses of one micro batch; ``measure`` asks for measurements that cost something, too."""
        ...


class Validation(Protocol):
    """Measurements on held-out clips while training."""

    alive: Callable[[], None]
    """Called for every batch: a long validation is no hang."""

    def resume(self, first_step: int) -> None:
        """Take up from ``first_step``."""
        ...

    def due(self, done: int) -> bool:
        """Return whether there is a validation after step ``done``."""
        ...

    def __call__(self, done: int) -> dict[str, float]:
        """Return measurements by metric name after step ``done``, as many as could be taken. Collective."""
        ...


class Pictures(Protocol):
    """Pictures of what the network makes of a few clips while training."""

    def due(self, done: int) -> bool:
        """Return whether there are pictures after step ``done``."""
        ...

    def __call__(self, done: int, objective: Objective, writer: MetricsWriter, gradients: dict[str, float]) -> None:
        """Take pictures after step ``done`` and show them with the norms of its ``gradients``. Collective; changes nothing."""
        ...
