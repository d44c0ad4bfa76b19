"""Settings: overrides, one clear line for every kind of fault, round trips, and no other exception ever."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mvd_ds.config import (
    ConfigError,
    Recipe,
    Settings,
    TrainingRecipe,
    differences,
    dump,
    find_engine_config,
    find_recipe,
    load_recipe,
    recipe_names,
    to_yaml,
    validate,
)

DISTILL, PIXELS, PROBE = "quickstart_distill", "quickstart_video", "quickstart_probe"

# (recipe, overrides, what the one line must say)
FAULTS = [
    (
        DISTILL,
        ["teachers.image.target.normalise=true", "teachers.image.target.standardise=clip"],
        "remove one of them (on the command line TARGET.normalise=false or TARGET.standardise=none)",
    ),
    (DISTILL, ["masking.ratoi=0.5"], "masking.ratoi: unknown setting; did you mean 'ratio'?"),
    (DISTILL, ["maskign.ratio=0.5"], "maskign: unknown setting; did you mean 'masking'?"),
    (DISTILL, ["data.clip.stride=4"], "data.clip.stride: unknown setting; did you mean 'stride_frames'?"),
    (DISTILL, ["batch.globall=4"], "batch.globall: unknown setting; did you mean 'global'?"),
    (DISTILL, ["teachers.image.wieghts=x"], "teachers.image.wieghts: unknown setting; did you mean 'weights'?"),
    (DISTILL, ["teachers.image.target.block=[1]"], "teachers.image.target.block: unknown setting; did you mean 'blocks'?"),
    (DISTILL, ["zzz=1"], "zzz: unknown setting; settings here are objective,"),
    (DISTILL, ["masking.ratio=1.5"], "masking.ratio 1.5: Input should be less than 1"),
    (DISTILL, ["masking.ratio=.nan"], "masking.ratio nan: Input should be a finite number"),
    (
        DISTILL,
        ["masking.kind=tubes"],
        "masking.kind 'tubes': Input should be 'tube', 'random', 'multi_block', 'attention', 'motion' or 'none'",
    ),
    (DISTILL, ["masking=3"], "masking 3: Input should be"),
    (DISTILL, ["batch.micro=many"], "batch.micro 'many': Input should be a valid integer"),
    (DISTILL, ["batch.micro=0"], "batch.micro 0: Input should be greater than or equal to 1"),
    (DISTILL, ["batch.micro=3"], "global 16 is not divisible by micro 3"),
    (DISTILL, ["data.clips_per_video=5"], "batch.micro 8 is not divisible by data.clips_per_video 5"),
    (DISTILL, ["model.size=tyni"], "size 'tyni' is not known; sizes are tiny, small, base, large, huge"),
    (DISTILL, ["model.num_heads=3"], "embed_dim 128 is not divisible by num_heads 3"),
    (DISTILL, ["model.embed_dim=40"], "position sincos3d needs embed_dim divisible by 16, got 40"),
    (DISTILL, ["decoder.num_heads=3"], "decoder.embed_dim 64 is not divisible by decoder.num_heads 3"),
    (DISTILL, ["decoder.embed_dim=40"], "position sincos3d needs decoder.embed_dim divisible by 16, got 40"),
    (DISTILL, ["model.position=sincos2d"], "a video encoder has position sincos3d or sinusoid1d"),
    (DISTILL, ["teachers.image.tubelet_frames=2"], "an image encoder has tubelet_frames 1 and position sincos2d"),
    (DISTILL, ["data.clip.frames=15"], "clip of 15 frames is not divisible by tubelet_frames 2"),
    (DISTILL, ["data.clip.size_px=50"], "clip of 50 px is not divisible by patch_px 12"),
    (DISTILL, ["masking.ratio=0.01"], "masking.ratio 0.01 leaves no visible or no masked token on grid (6, 4, 4)"),
    (DISTILL, ["teachers.image.patch_px=16"], "grid (6, 3, 3) differs from the student's (6, 4, 4); choose input_px 64"),
    (DISTILL, ["teachers.video.patch_px=7"], "teachers.video: clip of 48 px is not divisible by patch_px 7"),
    (DISTILL, ["teachers.image.frame_in_tubelet=2"], "teachers.image.frame_in_tubelet 2 is outside the student's tubelet"),
    (DISTILL, ["teachers.video.target.blocks=[4]"], "teachers.video.target.blocks: 4 is outside a network of 4 blocks"),
    (DISTILL, ["teachers.video.target.blocks=[]"], "teachers.video.target.blocks is empty"),
    (DISTILL, ["teachers={}"], "objective distillation needs at least one entry under teachers, and no pixels"),
    (DISTILL, ["pixels.loss=l2"], "objective distillation needs at least one entry under teachers, and no pixels"),
    (DISTILL, ["teachers.my-teacher={size: tiny, weights: x}"], "teacher name 'my-teacher' must be letters, digits"),
    (DISTILL, ["teachers.third={size: tiny}"], "teachers.third.weights: is required and not given"),
    (DISTILL, ["schedule.epochs=3"], "give exactly one of epochs and steps"),
    (DISTILL, ["schedule.steps=null"], "give exactly one of epochs and steps"),
    (DISTILL, ["schedule.warmup_epochs=3"], "give one of warmup_epochs and warmup_steps, not both"),
    (DISTILL, ["schedule.stop_after_epochs=3"], "stop_after_epochs needs epochs, and cannot be larger"),
    (DISTILL, ["objective=distil"], "objective 'distil' is not one of image_reconstruction,"),
    (PIXELS, ["pixels=null"], "objective video_reconstruction needs pixels, and no teachers"),
    (PIXELS, ["objective=image_reconstruction"], "objective image_reconstruction needs model.kind image, got video"),
    (PIXELS, ["pixels.variance_floor=-1"], "pixels.variance_floor -1: Input should be greater than or equal to 0"),
    ("quickstart_image", ["pixels.normalise=per_channel", "model.patch_px=1"], "needs patches of more than one pixel"),
    (
        DISTILL,
        ["masking.kind=" + "x" * 500],
        "xxx...: Input should be 'tube', 'random', 'multi_block', 'attention', 'motion' or 'none'",
    ),
    ("quickstart_image", ["data.clip.frames=2"], "objective image_reconstruction needs data.clip.frames 1"),
    (PROBE, ["models.student.frame=first"], "models.student.frame: unknown setting; did you mean 'frames'?"),
    (PROBE, ["models.student.weights=''"], "models.student.weights '': String should have at least 1 character"),
    (DISTILL, ["masking.ratio"], "override 'masking.ratio' is not of the form key.path=value"),
    (DISTILL, ["=3"], "override '=3' is not of the form key.path=value"),
    (DISTILL, ["masking.ratio=[1"], "override 'masking.ratio=[1': the value is not YAML"),
    (DISTILL, ["masking.ratio=2026-13-45"], "override 'masking.ratio=2026-13-45': the value is not YAML"),
    (DISTILL, ["run.output=caf\udce9"], "run.output 'caf\\udce9': is not UTF-8; rename the file or folder, or give a link"),
    (DISTILL, ["objective.x=1"], "override 'objective.x=1': 'objective' is a value, not a group of settings"),
]


def _message(recipe: str, overrides: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe, overrides)
    return str(caught.value)


@pytest.mark.parametrize(("recipe", "overrides", "expected"), FAULTS, ids=[f"{f[0]}-{f[1][0]}" for f in FAULTS])
def test_every_kind_of_fault_is_one_clear_line(recipe: str, overrides: list[str], expected: str) -> None:
    message = _message(recipe, overrides)
    assert expected in message
    assert len(message.splitlines()) == 1


def test_several_faults_are_told_together_each_on_its_line() -> None:
    lines = _message(DISTILL, ["masking.ratio=2", "batch.micro=0", "model.patch=8"]).splitlines()
    assert len(lines) == 3 and all(line.startswith("command line: ") for line in lines)


def test_faults_of_the_file_and_of_the_command_line_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(find_recipe(DISTILL).read_text().replace("masking: {", "masking: {ratoi: 1, "))
    lines = _message(str(path), ["batch.micro=0"]).splitlines()
    assert len(lines) == 2 and f"{path}: masking.ratoi: unknown setting; did you mean 'ratio'?" in lines
    assert any(line.startswith("command line: batch.micro 0: ") for line in lines)


def test_a_message_names_the_recipe_file_and_the_line_of_bad_yaml(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("objective: distillation\nmasking: {ratio: 0.9\nmodel: 3\n")
    assert _message(str(path), []).startswith(f"{path}:3: is not YAML: ")
    path.write_text("- a list\n")
    assert _message(str(path), []) == f"{path}: a recipe is a mapping of settings, got list"
    path.write_bytes(b"\xff\xfe\x00")
    assert _message(str(path), []).startswith(f"{path}: cannot be read: ")


def test_a_missing_recipe_is_answered_with_the_nearest_name() -> None:
    assert _message("mvd_smal_from_base", []).endswith("did you mean 'mvd_small_from_base'?")
    assert "lists them" in _message("???", [])


def test_a_recipe_of_another_command_is_refused() -> None:
    with pytest.raises(ConfigError, match="objective probe is for `probe`, not `distill`"):
        load_recipe(PROBE, command="distill")
    assert load_recipe(PROBE, command="probe")


def test_a_missing_engine_config_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"'zero4.json' is not a file; ds_configs/ has teacher_zero3.json, .*zero3.json"):
        find_engine_config("zero4.json")


def test_overrides_are_typed_nested_and_leave_the_rest() -> None:
    plain = load_recipe(DISTILL)
    third = "teachers.third={size: tiny, patch_px: 12, position: sinusoid1d, weights: random, loss: cosine}"
    changed = load_recipe(
        DISTILL, ["masking.masks_per_clip=2", "teachers.video.target.blocks=[1, -1]", third, "batch.global=128"]
    )
    assert isinstance(changed, TrainingRecipe)
    assert changed.decoder_names == ("image", "video", "third") and changed.teachers["third"].is_random
    assert changed.teachers["video"].target.blocks == (1, -1)
    lines = differences(dump(plain), dump(changed))
    assert [line for line in lines if "third" not in line] == [
        "batch.global: 16 -> 128",
        "masking.masks_per_clip: 4 -> 2",
        "teachers.video.target.blocks: [-1] -> [1, -1]",
    ]


def test_a_key_with_line_breaks_stays_on_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^mutant: a b: unknown setting; settings here are [^\n]*$"):
        validate({**FULL[DISTILL], "a\nb": 1}, "mutant")


def test_differences_are_empty_only_between_equals() -> None:
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == []
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "d": 4}) == ["a.b: 1 -> 3", "c: 2 -> None", "d: None -> 4"]


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_survives_dump_and_yaml(name: str) -> None:
    recipe = load_recipe(name)
    assert validate(dump(recipe), "dump") == recipe
    assert validate(yaml.safe_load(to_yaml(recipe)), "yaml") == recipe


def test_nothing_mutates_the_tree() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_recipe(DISTILL).masking.ratio = 0.5  # type: ignore[attr-defined]


def _nodes(kind: type[Settings]) -> list[type[Settings]]:
    return [node for child in kind.__subclasses__() for node in (child, *_nodes(child))]


@pytest.mark.parametrize("node", _nodes(Settings), ids=lambda node: node.__name__)
def test_every_setting_is_described_where_it_is_declared(node: type[Settings]) -> None:
    assert [name for name, field in node.model_fields.items() if not field.description] == []


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(10**400), max_value=10**400),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["auto", "random", "zero3", "", "1", "image", "huge", -1, 0, 1, 2, 3, 10**9]),
    st.dates(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


def _paths(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in values.items():
        found.append((*prefix, key))
        if isinstance(value, dict):
            found += _paths(value, (*prefix, key))
    return found


FULL = {name: dump(load_recipe(name)) for name in recipe_names()}


@settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_mutated_recipe_is_valid_or_refused_in_lines(data: st.DataObject) -> None:
    values = copy.deepcopy(FULL[data.draw(st.sampled_from(sorted(FULL)), label="recipe")])
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(_paths(values)), label="path")
        node = values
        for key in path[:-1]:
            node = node[key]
        action = data.draw(st.sampled_from(["set", "set", "set", "delete", "rename"]))
        old = node.pop(path[-1])
        if action == "set":
            node[path[-1]] = data.draw(VALUES, label="value")
        elif action == "rename":
            node[data.draw(st.text(max_size=8), label="name")] = old
    try:
        recipe = validate(values, "mutant")
    except ConfigError as error:
        assert all(line.startswith("mutant: ") for line in str(error).split("\n"))
    else:
        assert isinstance(recipe, Recipe) and validate(dump(recipe), "again") == recipe
        if isinstance(recipe, TrainingRecipe):
            assert (recipe.masked_tokens > 0 or recipe.objective == "language") and recipe.grid and recipe.learning_rate


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(["masking.ratio", "teachers", "model.size", "a.b", "objective", ""]), st.text(max_size=30))
def test_any_override_text_is_applied_or_refused(key: str, text: str) -> None:
    try:
        load_recipe(DISTILL, [f"{key}={text}"])
    except ConfigError as error:
        assert str(error)


@pytest.mark.parametrize("folder", ["runs/run #1", "#1", "runs/a\nb", "runs/ä # ö", "runs/#1", "runs/a b"])
def test_a_typed_path_is_taken_as_it_is(folder: str) -> None:
    recipe = load_recipe("mvd_base_from_base", [f"run.output={folder}"])
    assert recipe.run.output == folder
