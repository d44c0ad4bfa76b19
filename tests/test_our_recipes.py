"""The shipped recipes that nobody has published: what they change in a published one, and nothing else."""

import pytest

from mvd_ds.config import TrainingRecipe, differences, dump, load_recipe
from recipe_pages import header_of
from test_recipes import AGGLOMERATIVE, OURS, WIDTHS


def training(name: str) -> TrainingRecipe:
    recipe = load_recipe(name)
    assert isinstance(recipe, TrainingRecipe)
    return recipe


@pytest.mark.parametrize(("name", "changed"), OURS.items())
def test_a_recipe_of_ours_changes_one_section_of_a_published_one(name: str, changed: str) -> None:
    ours, published = dump(training(name)), dump(training("mvd_base_from_base"))
    assert {key for key in published if ours[key] != published[key]} == {changed}
    assert "ours" in header_of(name)["Source"] and "Nobody has published it" in header_of(name)["Source"]


def test_the_agglomerative_student_changes_teachers_and_their_balance_only() -> None:
    ours, published = training(AGGLOMERATIVE), training("mvd_base_from_base")
    a, b = dump(ours), dump(published)
    changed = {"teachers", "balance", "drop_teachers", "calibration_clips"}
    assert {key for key in b if a[key] != b[key]} == changed
    assert (ours.balance, ours.drop_teachers, ours.calibration_clips) == ("loss_relative", 0.5, ours.batch.global_)
    for teacher in ours.teachers.values():
        assert teacher.target.standardise == "phi_s" and teacher.loss == {"cosine": 0.9, "smooth_l1": 0.1}
    video = ours.teachers["video"]
    assert (video.embed_dim, video.depth, video.num_heads) == WIDTHS["base"]
    assert "Nobody has published it" in header_of(AGGLOMERATIVE)["Source"]


def test_students_that_learn_together_are_those_of_their_own_recipes() -> None:
    recipe = training("mvd_students_from_large")
    assert list(recipe.students) == ["small", "base"]
    for student in recipe.students:
        theirs, ours = training(f"mvd_{student}_from_large"), recipe.student(student)
        assert head_shapes_of(ours) == head_shapes_of(theirs)
        changed = {line.partition(":")[0] for line in differences(dump(theirs), dump(ours))}
        assert changed <= {"batch.micro", "decoder.embed_dim", "decoder.num_heads", "run.output"}


def head_shapes_of(recipe: TrainingRecipe) -> list[tuple[int, int, int]]:
    """Width, depth and heads of every decoder, the encoder's where they are not given."""
    model, decoders = recipe.model, [output.decoder for output in recipe.outputs.values()]
    return [(each.embed_dim or model.embed_dim, each.depth, each.num_heads or model.num_heads) for each in decoders]
