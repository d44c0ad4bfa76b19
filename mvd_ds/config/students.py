"""Settings of several students that learn from one pass of the teachers, and the recipe that each would have alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, field_serializer, field_validator, model_validator

from mvd_ds.config.base import PathText, Settings
from mvd_ds.config.networks.decoder import DecoderSettings
from mvd_ds.config.networks.encoder import NETWORK_STYLES, STYLE_SIZES, EncoderSettings, InitSettings
from mvd_ds.config.optimization import EngineSettings, OptimizerSettings, ScheduleSettings

#: Settings of an engine that all students have in common: they decide what the teachers compute, and when a run is over.
_COMMON = ("precision", "teacher_config", "timeout_minutes")
#: Settings of a section of which one that is given takes the place of all: a length in steps is no longer one in epochs.
_ALTERNATIVES = {"schedule": (("epochs", "steps", "stop_after_epochs"), ("warmup_epochs", "warmup_steps"))}
#: Folders of a run, beside which those of its students lie.
_FOLDERS = ("attempts", "checkpoints", "control", "dumps", "logs", "model", "pictures", "tensorboard")
_SIZE = ("size", "embed_dim", "depth", "num_heads", "mlp_ratio")


class StudentSettings(Settings):
    """One of several students. What is not given is as the recipe has it; everything else is common to all of them."""

    output: PathText | None = None
    """Folder of its run, an ordinary one (None: a folder of the student's name in ``run.output``)."""
    ranks: str | None = None
    """Processes that own it, ``0-7`` or ``3``, as the launcher counts them (None: all). Every process asks the teachers for its
    share of the clips; what they give is handed to the owners, who learn side by side with those of other students. A teacher
    of placement ``zero3`` is spread over the processes that learn with the same students."""
    model: EncoderSettings
    """Its encoder; a ``size`` takes the place of the recipe's widths. All students cut clips into the same tokens."""
    decoder: DecoderSettings = DecoderSettings()
    """Shape of its decoders."""
    init: InitSettings | None = None
    """Weights that it starts from."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """AdamW and the size of its steps."""
    schedule: ScheduleSettings
    """Length of its training, warm-up and cosine; one that is done leaves the others alone."""
    engine: EngineSettings = EngineSettings()
    """Its DeepSpeed settings; precision, teacher_config and timeout_minutes are the recipe's for all."""

    @field_validator("ranks", mode="before")
    @classmethod
    def _check_ranks(cls, ranks: Any) -> Any:
        if ranks is None:
            return None
        found = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", str(ranks))
        if not found or int(found[2] or found[1]) < int(found[1]):
            raise ValueError("write the first and the last process, 0-7, or one, 3")
        return str(ranks)

    def owners(self, world: int) -> range:
        """Return the processes that own it, of ``world``."""
        if self.ranks is None:
            return range(world)
        first, _, last = self.ranks.partition("-")
        return range(int(first), int(last or first) + 1)


#: Settings of a student that are no section of a recipe.
_PLACES = ("output", "ranks")
SECTIONS = tuple(name for name in StudentSettings.model_fields if name not in _PLACES)


class HasStudents(Settings):
    """The part of a recipe that knows of its ``students``, which the recipe declares."""

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: Any) -> Any:
        """Fill in what students do not say; a recipe whose own model has no size takes that of its first student."""
        if not isinstance(values, dict) or not isinstance(values.get("students"), dict) or not values["students"]:
            return values
        common = {section: values[section] for section in SECTIONS if section in values}
        students = {
            name: {**common, **{key: _merged(key, common.get(key), value) for key, value in own.items()}}
            if isinstance(own, dict)
            else own
            for name, own in values["students"].items()
        }
        first, model = next(iter(students.values())), values.get("model") or {}
        if isinstance(first, dict) and isinstance(first.get("model"), dict) and not {"size", "embed_dim"} & set(model):
            values = {**values, "model": first["model"]}
        return {**values, "students": students}

    @field_serializer("students", check_fields=False)
    def _differences(self, students: dict[str, StudentSettings]) -> dict[str, Any]:
        """Return of each student what is not as the recipe has it, so that a setting of the recipe still is one of them all."""
        recipe = self.model_dump(mode="json", by_alias=True, include=set(SECTIONS))
        found = {}
        for name, student in students.items():
            own = student.model_dump(mode="json", by_alias=True)
            found[name] = {key: value for key, value in own.items() if value is not None and key in _PLACES}
            for section in SECTIONS:
                if own[section] != recipe[section]:
                    found[name][section] = _unlike(section, own[section], recipe[section])
        return found

    @model_validator(mode="after")
    def _check_students(self) -> Self:
        recipe: Any = self
        if recipe.students and recipe.objective != "distillation":
            raise ValueError("students are for objective distillation: what they share is the pass of the teachers")
        _require_no_node_teachers(recipe)
        outputs = {str(Path(recipe.run.output)): "run.output"}
        for name in recipe.students:
            where, alone = f"students.{name}", _checked(recipe, name)
            place = str(Path(alone.run.output))
            if place in outputs:
                raise ValueError(f"{where}.output: {place} is the folder of {outputs[place]}, too; give each its own")
            outputs[place] = where
        return self

    def student(self, name: str) -> Self:
        """Return the recipe that student ``name`` would have in a run of its own."""
        recipe: Any = self
        own = recipe.students[name]
        values = recipe.model_dump(mode="json", by_alias=True)
        values |= own.model_dump(mode="json", by_alias=True, include=set(SECTIONS))
        values["run"] |= {"output": own.output or str(Path(recipe.run.output) / name)}
        return type(self).model_validate(values | {"students": {}})


def _require_no_node_teachers(recipe: Any) -> None:
    """Refuse teachers that are spread over hosts beside students with ``ranks``, whose processes may end in the middle of one.

    Raises:
        ValueError: naming the first.
    """
    owned = [name for name, student in recipe.students.items() if student.ranks is not None]
    spread = [name for name, teacher in recipe.asked_teachers.items() if teacher.placement == "zero3_node"]
    if owned and spread:
        raise ValueError(
            f"teachers.{spread[0]}.placement zero3_node: spreads a teacher over a host, and students.{owned[0]}.ranks may be a "
            "part of one: choose zero3, which spreads it over the processes that learn with the same students, or replicated"
        )


def _checked(recipe: Any, name: str) -> Any:
    """Return the recipe of student ``name`` alone.

    Raises:
        ValueError: if the student does not fit itself, or the others.
    """
    where, engine = f"students.{name}", recipe.students[name].engine
    if not name.isidentifier() or name in _FOLDERS:
        raise ValueError(f"{where}: the name must be letters, digits and underscores, and none of {', '.join(_FOLDERS)}")
    for setting in _COMMON:
        own, common = getattr(engine, setting), getattr(recipe.engine, setting)
        if own != common:
            raise ValueError(f"{where}.engine.{setting} {own}: it is {common} for all; set engine.{setting}")
    try:
        alone = recipe.student(name)
    except ValidationError as error:
        raise ValueError(f"{where}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    if alone.grid != recipe.grid:
        raise ValueError(
            f"{where}.model: its grid {alone.grid} is not {recipe.grid}, that of the recipe; students share masks: give all the "
            "same patch_px and tubelet_frames"
        )
    return alone


def _merged(section: str, common: Any, own: Any) -> Any:
    """Return a section of a student: what it says over what the recipe has."""
    if not isinstance(common, dict) or not isinstance(own, dict):
        return own
    replaced = {key for group in _ALTERNATIVES.get(section, ()) if set(group) & set(own) for key in group}
    if section == "model":
        replaced |= set(_SIZE[1:4]) if isinstance(own.get("size"), str) else set()
        replaced |= {"mlp_ratio"} if own.get("size") in STYLE_SIZES else set()
        replaced |= set(NETWORK_STYLES["vjepa2"]) | {"rope_side"} if isinstance(own.get("network_style"), str) else set()
    return {**{key: value for key, value in common.items() if key not in replaced}, **own}


def _unlike(section: str, own: Any, common: Any) -> Any:
    """Return the settings that ``_merged`` makes ``own`` of again, over ``common``; both are dumped sections."""
    if not isinstance(common, dict) or not isinstance(own, dict):
        return own
    unlike = {key for key, value in own.items() if value != common.get(key)}
    groups = (*_ALTERNATIVES.get(section, ()), *([_SIZE] if section == "model" else []))
    kept = unlike.union(*(set(group) for group in groups if unlike & set(group)))
    if section == "model" and "network_style" in unlike:
        kept = set(own)
    return {key: value for key, value in own.items() if key in kept}
