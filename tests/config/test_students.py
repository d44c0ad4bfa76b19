"""Several students in a recipe: what each takes from it, what goes back to YAML, and what is refused."""

from __future__ import annotations

import pytest

from mvd_ds.config import ConfigError, TrainingRecipe, dump, load_recipe, validate

TWO = ["students.s.model.size=small", "students.s.decoder={embed_dim: 384, num_heads: 6}", "students.b={}"]


def several(*overrides: str) -> TrainingRecipe:
    recipe = load_recipe("mvd_base_from_base", [*TWO, *overrides])
    assert isinstance(recipe, TrainingRecipe)
    return recipe


def test_a_student_is_the_recipe_with_what_it_says_itself() -> None:
    recipe = several("optimizer.weight_decay=0.3", "students.s.optimizer.base_lr=1e-3", "students.s.schedule={steps: 7}")
    small, base = recipe.student("s"), recipe.student("b")
    assert (small.model.embed_dim, small.model.num_heads, small.decoder.embed_dim) == (384, 6, 384)
    assert (small.model.drop_path, small.decoder.depth) == (recipe.model.drop_path, 2)
    assert (small.optimizer.base_lr, small.optimizer.weight_decay) == (1e-3, 0.3)
    assert (small.schedule.steps, small.schedule.epochs, small.schedule.warmup_epochs) == (7, None, recipe.schedule.warmup_epochs)
    alone = load_recipe("mvd_base_from_base", ["optimizer.weight_decay=0.3", f"run.output={base.run.output}"])
    assert base == alone and base.run.output.endswith("/b")


def test_a_recipe_without_a_size_of_its_own_has_that_of_its_first_student() -> None:
    values = dump(load_recipe("mvd_base_from_base", [])) | {"students": {"s": {"model": {"size": "small"}}}}
    values["model"] = {"patch_px": 16, "tubelet_frames": 2}
    values["decoder"] = {}
    recipe = validate(values, "test")
    assert isinstance(recipe, TrainingRecipe)
    assert recipe.model.embed_dim == 384 and recipe.drop_path_blocks == recipe.student("s").drop_path_blocks


@pytest.mark.parametrize(
    "more",
    [
        ["students.s.schedule={steps: 7, warmup_steps: 2}", "students.b.engine.config=zero1.json"],
        ["students.s.model.depth=5", "students.b.model.depth=12", "model.network_style=vjepa2"],
        ["students.b.init.weights=somewhere", "students.s.output=elsewhere"],
        ["students.s.ranks=3", "students.b.ranks=0-2"],
    ],
)
def test_a_dumped_recipe_is_the_same_and_its_settings_are_still_those_of_all(more: list[str]) -> None:
    recipe = several(*more)
    values = dump(recipe)
    assert validate(values, "test") == recipe
    values["optimizer"]["base_lr"] = 0.5
    changed = validate(values, "test")
    assert isinstance(changed, TrainingRecipe)
    assert [changed.student(name).optimizer.base_lr for name in changed.students] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("students.s.engine.precision=fp32", "students.s.engine.precision fp32: it is bf16 for all; set engine.precision"),
        ("students.s.model.tubelet_frames=4", "students.s"),
        ("students.logs={}", "students.logs: the name must be"),
        ("students.s.lr=1", "students.s.lr: unknown setting; did you mean"),
        ("students.s.output=runs/{recipe}/b", "is the folder of"),
        ("students.s.output=runs/{recipe}", "is the folder of run.output, too"),
        ("students.s.ranks=4-2", "students.s.ranks '4-2': write the first and the last process, 0-7, or one, 3"),
        ("students.s.ranks=[0, 1]", "students.s.ranks '[0, 1]': write the first and the last process"),
        ("students.s.model.num_heads=5", "students.s.model: embed_dim 384 is not divisible by num_heads 5"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        several(override)
    assert message in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_students_are_for_distillation() -> None:
    with pytest.raises(ConfigError, match="students are for objective distillation"):
        load_recipe("videomae_small", ["students.s={}"])


def test_ranks_are_those_of_a_student_or_of_all() -> None:
    recipe = several("students.s.ranks=2-3")
    assert [list(recipe.students[name].owners(4)) for name in ("s", "b")] == [[2, 3], [0, 1, 2, 3]]


def test_students_that_own_ranks_have_no_teachers_spread_over_hosts() -> None:
    several("students.s.ranks=0", "teachers.video.placement=zero3")
    with pytest.raises(ConfigError, match=r"teachers.video.placement zero3_node: .* students.s.ranks .*: choose zero3, which"):
        several("students.s.ranks=0", "teachers.video.placement=zero3_node")
