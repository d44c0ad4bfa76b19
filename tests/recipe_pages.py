"""Write ``mvd_ds/recipes/README.md`` from the headers of the recipes: ``python tests/recipe_pages.py``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mvd_ds.config import RECIPE_FOLDER, find_recipe  # noqa: E402

PAGE = RECIPE_FOLDER / "README.md"
TITLES = {
    "pretrain": "Stage one: teachers",
    "tokenizer": "Tokenizers: codes in place of features",
    "distill": "Stage two: students",
    "finetune": "Fine-tuning",
    "evaluate": "Tests and features",
    "quickstart": "The quickstart",
    "demo": "The demonstration",
}
BEGINNING = """# Recipes

One run per file, at most 60 lines, with every number of it. `python -m mvd_ds recipes` lists them, `python -m mvd_ds
recipes NAME` prints one, and `key.path=value` behind a command replaces a setting; a misspelt key is answered with the
nearest right one. A recipe of your own is a YAML file anywhere: copy one, and give its path in place of the name.

```bash
python -m mvd_ds recipes mvd_base_from_base
python -m mvd_ds preflight mvd_base_from_base data.manifest=data/kinetics400/train.txt
python -m mvd_ds distill mvd_base_from_base data.manifest=data/kinetics400/train.txt batch.micro=8 run.output=runs/mine
```

Teachers are a dictionary: a third one costs YAML lines and no Python. `placement` is `replicated` (fastest whenever
memory allows), `zero3` (sharded over all processes), `zero3_node` (over those of a host), `zero3_offload` (in pinned
host memory) or `zero3_nvme` (on a disk in `engine.nvme_folder`). Weights that do not load, key by key, stop the run
before it starts.

Fine-tuning keeps the published protocol (layer decay, RandAugment, mixup, CutMix that is right for video; `cutmix:
published` as it was) under the same engine, checkpoints and resume. `teacher.weights=runs/finetune_k400_large/model`
adds the logits of a larger classifier as soft targets. [Your own videos](finetune/README.md) has a page of its own, and there
are several classes of a video (`task=multilabel`) and real numbers (`task=regression`).

## Comparing frozen encoders

`probe` shows every network the same clips, splits and heads: our model folders and any layout that `convert` reads, `network:
timm:NAME` (frame by frame; `time` puts the tokens of all frames side by side, adds each frame's time, or averages them),
`network: hf:FOLDER`. `heads=[deep_attentive]` is V-JEPA 2's probe; every `head.learning_rates` with every `head.weight_decay` is
trained on one pass of the frozen network, and the best is chosen on a share of the training clips, never on those held out.
`order=[reversed, shuffled]` tests the sense of time: probes tell clips from the same ones played backwards or in random order (an
encoder that sees no order is right in half of the cases), and the labels' probes answer for clips played so; the report has a
table. `drawn={count: 20}` shows trained heads another start and crop of each training clip in every epoch (20 in turn).
`blocks=all` probes every block in the same pass: the report draws accuracy over depth and names the block for `target.blocks`.

```bash
deepspeed --module mvd_ds probe probe_attentive models.encoder.weights=runs/mine/model \\
  'models.dino={network: timm:vit_base_patch16_dinov3, weights: weights/dinov3.safetensors, every_frames: 2, time: positions}'
python -m mvd_ds probe probe_attentive blocks=all 'heads=[linear]' run.output=runs/depth
python -m mvd_ds report runs/probe_attentive --output runs/report
```

Processes share networks' passes and heads, every one of which sees the whole batch: no number of processes changes a bit of
`predictions.csv`, and neither does an interruption. Features that fit `head.keep_gib` are computed once, others in every epoch.

## Prompts for a student that reads

On the frozen towers of a student that has learnt from captions, `probe` also asks the names of classes (`heads=[zero_shot]`), or
learns vectors that stand among them: `coop`, `cocoop` (shifted by the clip), `metaprompt` (in every block of both towers, and in
episodes), or in the encoder alone with a linear layer: `vpt`, which takes any encoder of ours. `prompt.words.LABEL=FILE` has
words for classes, as `evaluate` takes them; without, the manifest's names are read. `base_to_new: {pick: first}` (or `drawn` from
`run.seed`) fits on half of the classes and asks for both halves, each among its own; the page and `probes.json` say which they
are, with the harmonic mean, seeds and intervals. A linear layer has no answer for classes that it was not fitted on. What was
learnt lies in `prompts/`, a few kB a file, and finds the weights that it belongs to; `--words FILE` asks it for other classes:

```bash
deepspeed --module mvd_ds probe probe_cocoop models.student.weights=runs/mine/model prompt.words.label=words.json
python -m mvd_ds classify runs/probe_cocoop/prompts/student.cocoop.label.seed-0.safetensors clip.mp4 --words other.txt
python -m mvd_ds evaluate evaluate_2x3 weights=runs/probe_cocoop/prompts/student.cocoop.label.seed-0.safetensors
```

`finetune` learns the same heads on training clips as they come, drawn and augmented, under the engine of every training:
`adaptation: coop` (or `cocoop`, `metaprompt`, `vpt`), as `finetune_prompts` does. What it keeps, shards, averages and resumes
are the vectors; the towers are whole on every device, read from `weights` and never written, so a checkpoint is some kB, and
prompts find their towers by path and digest. `evaluate`, `classify`, `--words`, `checkpoints --to` and `mvd_ds.load` take
`runs/mine`, its `best` or its `model`; `export` writes prompts with their towers as one folder for elsewhere. Episodes are over
all clips of a step, and like every loss the same for any number of processes. A text tower of a SigLIP keeps the length of its
rows: vectors stand in front, and tokens that fill a row up give way. In `probe`, every one of `views.segments` is learnt from,
and the softmaxes of all views are averaged, as `evaluate` does. Refused: other tasks than one class of a video, a pooling or
dropout (the heads have none) and `order` (ways of playing have no names).

```bash
deepspeed --module mvd_ds finetune finetune_prompts data.manifest=my_videos weights=runs/captions/model run.output=runs/pets
python -m mvd_ds evaluate evaluate_5x3 weights=runs/pets/best data.manifest=runs/pets/held_out.txt run.output=runs/pets_test
python -m mvd_ds export runs/pets/best pets
```

## Going on from published weights, on videos of your own

`init.weights` names what a stage one or a student starts from, in any layout that `convert` reads: folders of Hugging Face
(V-JEPA 2, VideoMAE, ViTMAE) and files of the published codes. The encoder has to be that of `model` and is taken whole, on any
number of frames and pixels; one line names whatever differs. `init.decoders=true` takes decoders of the same name, too. All else
starts from the seed. `network_style: vjepa2` (`vjepa2_1`) fills in what V-JEPA 2's encoders are made of: rotary positions, biases
of queries, keys and values, patches of 16 px, tubelets of 2 frames.

```bash
python -m mvd_ds convert weights/vjepa2-large
python -m mvd_ds pretrain videomae_base data.manifest=mine/train.txt init.weights=weights/videomae-base init.decoders=true
python -m mvd_ds distill mvd_large_from_large 'model={size: large, network_style: vjepa2}' init.weights=weights/vjepa2-large
python -m mvd_ds distill mvd_base_from_large 'teachers.video={size: large, network_style: vjepa2, weights: weights/vjepa2-large}'
python -m mvd_ds convert runs/mine/model weights/mine --to huggingface
```

The first says what a folder holds. The second goes on with VideoMAE's own task, the third distils into V-JEPA 2's network, the
fourth learns from it, and the last writes the trained encoder for transformers (`--to vjepa2`: for the published code).

## Codes in place of features

`tokenizer` learns codes of a teacher's tokens, or of clips, on the very frames and grid that a student will see, and writes a
folder `RUN/model`; a student with `target: {kind: codes, codebook: FOLDER}` learns the code of every masked token by cross
entropy. `tokenizer.method` is `vq` (VQ-KD: an encoder of `model.depth` blocks, short vectors that follow it by a moving average)
or `kmeans` (centres of the standardised tokens themselves, one pass). TensorBoard has the share of codes that the last step
used, their perplexity, the patches that are nearest to some of them, and clips beside what codes make of them. A student of other
weights, blocks or norm than the tokenizer's teacher is refused; one that computes in another precision is told so.

`tokenizer.encode` says what becomes codes, `reconstruct` what is made of them: `features` of a teacher, or `pixels`
(`pixels.loss`, a loss or several by weight). `perceptual: NAME` adds what any teacher makes of the reconstructed clip: its
`target.blocks` (`mode: concat` compares each block), `loss` and `weight`; gradients pass through it. `peco_base` has pixels on
both sides (PeCo); pixels to features is BEiT v2's own VQ-KD. `model` is then a whole encoder of tubelets, or of single frames
(`model.kind: image`, `data.clip.frames: 1`). It is the teacher of a student of its codes, stated as it is in the tokenizer's
recipe, with `weights` and `codebook` of the same folder and `norm: final`; as an encoder it goes wherever `weights` are read.

Where codes are of a teacher's tokens, which a step computes for features anyway, a few blocks are enough before them, or none,
and codes and features of one teacher may be learned side by side: a code says what the teacher's token says. A code of pixels
says what a network of its own saw there. Either way a student of codes runs what they are codes of. 8,192 codes in place of
features make a step of beitv2_base 12 % longer, 6 % with a large student, and take 0.12 GiB where a device has one clip
([measured](../../tests/benchmarks/README.md) on a CPU in fp32; `plan` says 11 and 5 %, and 0.29 GiB).

```bash
python -m mvd_ds tokenizer vqkd_base data.manifest=mine/train.txt batch.micro=8 run.output=runs/codes
python -m mvd_ds distill beitv2_base data.manifest=mine/train.txt teachers.clip.target.codebook=runs/codes/model
python -m mvd_ds tokenizer peco_base data.manifest=mine/train.txt teachers.perceptual.weights=runs/mine/model run.output=runs/peco
python -m mvd_ds distill beitv2_base data.manifest=mine/train.txt \\
  'teachers={codes: {size: base, weights: runs/peco/model, target: {kind: codes, codebook: runs/peco/model, norm: final}}}'
```

## Several students from one pass of the teachers

Teachers take 58 to 94 % of a step, and a second student can listen to the same pass. `students` names any number of them; each
says what it has of its own (`model`, `decoder`, `init`, `optimizer`, `schedule`, `engine`, `output`), and all else is the
recipe's.

```bash
python -m mvd_ds plan mvd_students_from_large --gpus 32
deepspeed --module mvd_ds distill mvd_students_from_large students.tiny={} students.tiny.model.size=tiny
python -m mvd_ds report runs/mvd_students_from_large --output runs/page
tensorboard --logdir runs/mvd_students_from_large
```

Every student is a whole run in a folder of its own, `OUTPUT/NAME`: its `recipe.yaml` is that of a run of its own, and
checkpoints, metrics, `model/` and `report`, `export`, `finetune`, `replay` are as ever. On a CPU in fp32 it is that run to the
bit: losses, weights, average and statistics, under any number of masks. `report OUTPUT` and TensorBoard show all students side
by side, `status OUTPUT` has a line for each. The same command goes on from each one's newest checkpoint; one that is behind,
for its save was cut off, catches up alone, and so does one that is added later, from its first step. One that is left out stays
as it is. One whose loss is not finite skips steps, or ends, by itself; the others go on, and the run fails at the end, naming
it.

Common to all are clips, masks, teachers, targets, batch, seed and precision, so students cut clips into the same tokens. All
share every device: the states of all have to fit, activations are there for one at a time. `perf/` of each is of the common step:
`perf/mfu` counts the operations of all that learn beside it. `preflight` tries each alone.

`students.NAME.ranks` gives a student processes of its own, and students of other processes then learn at the same time:

```bash
deepspeed --num_gpus 8 --module mvd_ds distill mvd_students_from_large students.small.ranks=0-1 students.base.ranks=2-7
```

Every process asks the teachers about its share of the clips, and hands what they gave, with clip and masks, to one process of
each student, in pieces of 32 MiB at most. A teacher of placement `zero3` (`zero3_offload`, `zero3_nvme`) is spread over the
processes that learn with the same students, here two and six; `zero3_node` is refused. `preflight` tries each student on its
own ranks, `plan` counts them, and `bench step`, whose students share every process, refuses them. A student on `n` ranks is the
run of its own on `n` processes, to the bit in fp32 on a CPU; `batch.global` is a multiple of `batch.micro` times each student's
ranks. Ranks may change at a resume.

## Without a teacher from outside

A teacher with `weights: ema` is the moving average of the student's own weights (`optimizer.ema_decay`, which goes to
`ema_decay_end`), whatever the ZeRO stage and its `placement`; its architecture is `model`'s and is not stated. `target.kind:
features` then learns like V-JEPA ([vjepa_base](distill/vjepa_base.yaml)), `prototypes` like iBOT
([ibot_small](distill/ibot_small.yaml)); with `masking.kind: attention` it says what is hidden, too. Such a student can
collapse: TensorBoard has `student/effective_rank`, `target/variance_*`, `prototypes/*_usage`, `prototypes/*_entropy`, the
deviation before `standardise: running` and the norms of the centres, and a line is said when one but the last falls below
`run.collapse_share` of its largest value.

## All recipes

Published results are those of the papers; none of the large recipes was run here, and their costs are arithmetic: these GPU-hours
leave loading and decoding out, `python -m mvd_ds plan RECIPE` counts them. The
results of the small ones are in [tests](../../tests/README.md). These tables are generated from the recipes' headers
(`tests/recipe_pages.py`).
"""


def header_of(name: str) -> dict[str, str]:
    """Return the fields of a recipe's header; a line that starts with blanks continues the field above."""
    fields: dict[str, str] = {}
    for line in find_recipe(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        match = re.match(r"# (\w+): +(.*)", line)
        key = match[1] if match else list(fields)[-1]
        fields[key] = f"{fields.get(key, '')} {match[2] if match else line[1:].strip()}".strip()
    return fields


def recipe_page() -> str:
    """Return the page: a table for each folder of recipes, a row for each recipe."""
    parts = [BEGINNING]
    for folder, title in TITLES.items():
        parts.append(f"## {title}\n\n| recipe | trains or measures | cost | result |\n|---|---|---|---|")
        for path in sorted((RECIPE_FOLDER / folder).glob("*.yaml")):
            header = header_of(path.stem)
            cells = [header[key].rstrip(".").replace("|", "/") for key in ("What", "Cost", "Result")]
            parts.append(f"| [{path.stem}]({folder}/{path.name}) | {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(recipe_page(), encoding="utf-8")
