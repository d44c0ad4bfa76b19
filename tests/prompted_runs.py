"""Small runs of prompts: a student with a text tower, and the overrides of a fine-tuning on the sample set."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors.torch import load_file

from mvd_ds.config import FinetuneRecipe, ProbeRecipe, TrainingRecipe, load_recipe
from mvd_ds.models.weights import save_model
from mvd_ds.runs.student import build_predictor

CLIP = ("data.clip.frames=4", "data.clip.size_px=32", "data.clip.stride_frames=2")
SMALL = [
    *(*CLIP, "model.size=null", "model.embed_dim=32", "model.depth=2", "model.num_heads=2", "model.patch_px=8"),
    *("language.embed_dim=16", "language.text.context=64", "batch.micro=4", "batch.global=4", "engine.precision=fp32"),
]
RECIPE = "finetune_prompts"
STEPS = 4


def write_captioned(folder: Path, name: str = "msclip_base", *more: str) -> Path:
    """Write the model of a run that has not learnt much, by default with a shared text tower, and return its folder."""
    recipe = load_recipe(name, [*SMALL, *more])
    assert isinstance(recipe, TrainingRecipe)
    save_model(folder, build_predictor(recipe).state_dict(), recipe, {"step": 0})
    return folder


def settings(kind: str, videos: Path, captioned: Path, output: Path, *more: str) -> list[str]:
    """Overrides of a fine-tuning of four steps; later ones count."""
    words = [] if kind == "vpt" else [f"prompt.words.how={videos / 'words_how.json'}"]
    return [
        f"adaptation={kind}",
        *(*words, *CLIP, "data.workers=0", "label=how", f"weights={captioned}"),
        f"data.manifest={videos / 'train.txt'}",
        f"validation={{manifest: {videos / 'val.txt'}, batch: 5}}",
        *("batch.micro=4", "batch.global=8", "optimizer.base_lr=1", "schedule={steps: 4, warmup_steps: 1}"),
        *("engine.precision=fp32", "run.device=cpu", "run.log_every_steps=1", "run.save_every_steps=2", f"run.output={output}"),
        *more,
    ]


def loaded(kind: str, *given: Path, more: tuple[str, ...] = ()) -> FinetuneRecipe:
    """Return the recipe of ``settings``."""
    found = load_recipe(RECIPE, settings(kind, *given, *more), "finetune")
    assert isinstance(found, FinetuneRecipe)
    return found


def one_label(listing: Path, folder: Path) -> Path:
    """Write the clips of a sample set with the label ``how`` alone."""
    _, classes, *rows = listing.read_text().splitlines()
    named = json.dumps({"how": json.loads(classes.partition(":")[2])["how"]})
    fields = [row.split() for row in rows]
    lines = ["# labels: how", f"# classes: {named}", *(f"{listing.parent / path} {how}" for path, _, how in fields)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / listing.name).write_text("\n".join(lines) + "\n")
    return folder / listing.name


def probe_settings(videos: Path, captioned: Path, output: Path, *more: str) -> list[str]:
    """Overrides of a probe with all heads that read or learn prompts; later ones count."""
    manifests = [one_label(videos / name, output.parent / "one_label") for name in ("train.txt", "val.txt")]
    return [
        f"data.manifest={manifests[0]}",
        f"validation_manifest={manifests[1]}",
        f"models={{student: {{weights: {captioned}}}}}",
        *(*CLIP, "data.workers=0", "heads=[zero_shot, coop, cocoop, metaprompt, vpt]", "compare=[]", "pixels=false"),
        *("views={segments: 2, crops: 2}", "drawn={count: 1, flip: 0.5}", "most_clips=16", "base_to_new=null", "seeds=[0]"),
        "head={epochs: 2, batch: 6, learning_rates: [1e-2, 1e-1], together: 2}",
        *("batch=8", "precision=fp32", "run.save_every_steps=2", "run.device=cpu", f"run.output={output}"),
        *more,
    ]


def probed(videos: Path, captioned: Path, output: Path, *more: str) -> ProbeRecipe:
    """Return the recipe of ``probe_settings``."""
    found = load_recipe("probe_cocoop", probe_settings(videos, captioned, output, *more), "probe")
    assert isinstance(found, ProbeRecipe)
    return found


def results_of(folder: Path) -> dict[str, str]:
    """Return the digests of what a probe of prompts leaves, of its prompts without what is said beside them."""
    found = {name: (folder / name).read_bytes() for name in ("predictions.csv", "correct.npz")}
    for file in sorted((folder / "prompts").iterdir()):
        found[file.name] = b"".join(value.numpy().tobytes() for _, value in sorted(load_file(file).items()))
    return {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
