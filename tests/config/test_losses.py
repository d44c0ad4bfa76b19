"""Settings that name a loss: one name or weights by name; every fault is one line."""

import pytest

from mvd_ds.config import ConfigError, dump, load_recipe, loss_parts, loss_title, validate

MIXTURE = {"cosine": 0.9, "smooth_l1": 0.1}


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ("smoth_l1", "teachers.image.loss 'smoth_l1': loss 'smoth_l1' is not known; did you mean 'smooth_l1'?"),
        ("{cosin: 1}", "teachers.image.loss: loss 'cosin' is not known; did you mean 'cosine'?"),
        ("{cosine: -1}", "teachers.image.loss: weight -1 of cosine is not a number of 0 or more"),
        ("{cosine: true}", "teachers.image.loss: weight True of cosine is not a number of 0 or more"),
        ("{cosine: 0}", "teachers.image.loss: a mixture needs a loss with a weight above 0"),
        ("[cosine]", "teachers.image.loss: is the name of a loss"),
    ],
)
def test_a_fault_is_one_line(loss: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_recipe("quickstart_distill", [f"teachers.image.loss={loss}"])
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_a_mixture_survives_the_way_through_yaml() -> None:
    recipe = load_recipe("quickstart_distill", ["teachers.image.loss={cosine: 0.9, smooth_l1: 0.1}"])
    assert recipe.teachers["image"].loss == MIXTURE
    assert validate(dump(recipe), "test") == recipe


def test_words_and_parts_of_a_loss() -> None:
    assert loss_title("l2") == "l2" and loss_parts("l2") == {"l2": 1.0}
    assert loss_title(MIXTURE) == "0.9 cosine + 0.1 smooth_l1" and loss_parts({**MIXTURE, "l1": 0}) == MIXTURE
    assert loss_title({"smooth_l1": 1, "cosine": 0}) == "smooth_l1"
