"""Results of one model are never written over those of another, and no run is lost under results."""

from __future__ import annotations

from pathlib import Path

import pytest

import mvd_ds
from classifiers import write_classifier
from mvd_ds.config import ConfigError, FinetuneRecipe, ProbeRecipe, load_recipe
from mvd_ds.runs.evaluate import evaluate
from mvd_ds.runs.extract import extract
from mvd_ds.runs.finetune import read_labelled
from mvd_ds.runs.probing.probe import probe
from mvd_ds.runs.results_folder import require_no_results, require_own_folder
from mvd_ds.training.contents import contents_of
from mvd_ds.training.liveness.folder_owner import FolderOwner
from mvd_ds.training.liveness.heartbeat import Heartbeat
from mvd_ds.training.run_folder import RunFolder

PROBED = ["models={{one: {{weights: {0}}}}}", "compare=[]", "validation_manifest={1}"]
"""Settings of a probe of encoder {0} on videos {1}."""


def test_evaluate_keeps_the_results_of_another_model(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_classifier(tmp_path / "a")
    write_classifier(tmp_path / "b", pooling="ggem")

    def test(model: str) -> bytes:
        settings = [f"weights={tmp_path / model}", f"data.manifest={videos / 'val.txt'}", "data.workers=0"]
        evaluate(load_recipe("evaluate_2x3", [*settings, f"run.output={tmp_path / 'run'}"], "evaluate"), "evaluate_2x3")
        return (tmp_path / "run" / "evaluation.json").read_bytes()

    first = test("a")
    with pytest.raises(ConfigError, match=r"holds results of another model, weights .*/a; choose another run.output for .*/b"):
        test("b")
    assert (tmp_path / "run" / "evaluation.json").read_bytes() == first
    (tmp_path / "a").rename(tmp_path / "moved")
    capsys.readouterr()
    assert test("moved") == first and "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("models", [("models.one.weights=b",), ("models.other.weights=a",)], ids=["replaced", "left out"])
def test_probe_keeps_the_results_of_another_model(models: tuple[str, ...], videos: Path, tmp_path: Path) -> None:
    for name, width in (("a", 16), ("b", 32)):
        mvd_ds.save(mvd_ds.build_encoder({"embed_dim": width, "depth": 1, "num_heads": 1}, 12, 48), tmp_path / name)

    def settings(*models: str) -> ProbeRecipe:
        own = [f"run.output={tmp_path / 'run'}", f"data.manifest={videos / 'train.txt'}", "models={}", "compare=[]"]
        own += [f"validation_manifest={videos / 'val.txt'}", *(model.replace("=", f"={tmp_path}/") for model in models)]
        recipe = load_recipe("quickstart_probe", own, "probe")
        assert isinstance(recipe, ProbeRecipe)
        return recipe

    earlier = settings("models.one.weights=a")
    folder = RunFolder(tmp_path / "run")
    folder.open(earlier, contents_of(earlier))
    for again in (earlier, settings("models.one.weights=a", "models.two.weights=b")):
        require_own_folder(folder, again, contents_of(again))
    with pytest.raises(ConfigError, match=r"run: holds results of another model, models.one.weights .*/a; choose another"):
        probe(settings(*models), "quickstart_probe")


@pytest.mark.parametrize("command", ["evaluate", "features"])
def test_no_results_over_a_training(command: str, videos: Path, tmp_path: Path) -> None:
    write_classifier(tmp_path / "model")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("objective: classification\n")
    last_sign = Heartbeat(RunFolder(tmp_path / "run"), 1, 1)
    last_sign.write()
    settings = [f"weights={tmp_path / 'model'}", f"data.manifest={videos / 'val.txt'}", f"run.output={tmp_path / 'run'}"]
    name, function = {"evaluate": ("evaluate_2x3", evaluate), "features": ("features", extract)}[command]
    with pytest.raises(ConfigError, match="holds a run with objective classification; choose another"):
        function(load_recipe(name, settings, command), name)
    assert (tmp_path / "run" / "recipe.yaml").read_text() == "objective: classification\n" and last_sign.path.is_file()


@pytest.mark.parametrize("held", ["evaluate", "features", "probe"])
def test_no_training_over_results(held: str, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(f"objective: {held}\n")
    recipe = load_recipe("finetune_folder", [f"data.manifest={videos / 'train.txt'}", f"run.output={tmp_path}"], "finetune")
    assert isinstance(recipe, FinetuneRecipe)
    with pytest.raises(ConfigError, match=f"holds results of `{held}`; choose another, such as .*_finetune"):
        require_no_results(RunFolder.of(recipe, "finetune_folder"), recipe)


def test_a_missing_validation_manifest_is_blamed_on_its_own_setting(videos: Path, tmp_path: Path) -> None:
    mvd_ds.save(mvd_ds.build_encoder({"embed_dim": 16, "depth": 1, "num_heads": 1}, 4, 48), tmp_path / "model")
    settings = [f"data.manifest={videos / 'train.txt'}", "label=how", "validation.manifest=gone.txt", "validation.share=0"]
    recipe = load_recipe("finetune_folder", [*settings, f"weights={tmp_path / 'model'}"], "finetune")
    assert isinstance(recipe, FinetuneRecipe)
    with pytest.raises(ConfigError, match=r"gone.txt: no such manifest file or folder of videos \(validation.manifest\)"):
        read_labelled(recipe)


@pytest.mark.parametrize("command", ["evaluate", "features", "labels", "dense"])
def test_a_second_job_in_a_folder_of_results_is_refused(command: str, videos: Path, tmp_path: Path) -> None:
    write_classifier(tmp_path / "classifier")
    mvd_ds.save(mvd_ds.build_encoder({"embed_dim": 16, "depth": 1, "num_heads": 1}, 12, 48), tmp_path / "encoder")
    listing, output = f"data.manifest={videos / 'val.txt'}", f"run.output={tmp_path / 'run'}"
    run, recipe, own = {
        "evaluate": (evaluate, "evaluate_2x3", [f"weights={tmp_path / 'classifier'}"]),
        "features": (extract, "features", [f"weights={tmp_path / 'encoder'}"]),
        "labels": (probe, "quickstart_probe", PROBED),
        "dense": (probe, "quickstart_probe", [*PROBED, "task=dense", "dense={{targets: [position]}}", "blocks=[0]"]),
    }[command]
    own = [text.format(tmp_path / "encoder", videos / "val.txt") for text in own]
    settings = load_recipe(recipe, [*own, listing, output, "run.device=cpu"])
    with FolderOwner(tmp_path / "run").take():
        with pytest.raises(ConfigError, match=r"^run\.output .*/run: another job works here \(process \d+ on .*, or wait until"):
            run(settings, recipe)  # type: ignore[operator]
        assert [path.name for path in (tmp_path / "run").iterdir() if path.suffix != ".json"] == ["control"]
    assert not (tmp_path / "run" / "control").exists()


@pytest.mark.parametrize(
    ("name", "command", "setting"),
    [
        ("quickstart_video", "pretrain", "data.manifest"),
        ("features", "features", "data.manifest"),
        ("features", "features", "weights"),
    ],
)
def test_nothing_is_written_into_a_folder_that_is_read(name: str, command: str, setting: str, tmp_path: Path) -> None:
    read = tmp_path / "read"
    read.mkdir()
    recipe = load_recipe(name, [f"{setting}={read}", f"run.output={tmp_path}/../{tmp_path.name}/read"], command)
    folder = RunFolder(Path(recipe.run.output))
    with pytest.raises(ConfigError, match=f"read: is the folder of {setting}; choose another, such as .*read_{command}$"):
        require_no_results(folder, recipe) if command == "pretrain" else require_own_folder(folder, recipe, {})
    require_no_results(RunFolder(read / "run"), recipe)
