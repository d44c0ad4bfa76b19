"""This module trains those heads of ``probe`` that learn prompts, and asks the names of classes without any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mvd_ds.config import PROMPT_HEADS, WORD_HEADS, ConfigError, PreprocessingSettings, ProbeRecipe, ViewSettings, dump
from mvd_ds.config.probing import result_name
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.tokens import text_encoder
from mvd_ds.data.words import Words, words_for
from mvd_ds.evaluation.head_training import ClassHalves, Labelled, Training, train_heads
from mvd_ds.evaluation.probes import Probe
from mvd_ds.evaluation.token_store import FrozenStore, Maker, Share, in_groups
from mvd_ds.models.prompts.classifier import prompt_input
from mvd_ds.models.prompts.file import PromptCard, digest_of, names_of, open_base, save_prompts
from mvd_ds.models.prompts.head import PromptBase, PromptInput
from mvd_ds.models.prompts.table import PROMPTS, build_prompts
from mvd_ds.models.prompts.texts import ClassNames, plain_vectors
from mvd_ds.runs.adapting.prompts import require_label_words
from mvd_ds.runs.probing.base_to_new import halves_of, label_classes
from mvd_ds.runs.probing.clips import Split, group_size, read_drawn, read_groups, shown
from mvd_ds.runs.probing.encoders import ProbedEncoder
from mvd_ds.runs.probing.head_states import HeadStates
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import StepProgress

#: Folder of trained prompts in that of a run.
FOLDER = "prompts"
ALL_HEADS = ("zero_shot", *PROMPT_HEADS)
"""Heads that this module has results of."""


class PromptInputs(NamedTuple):
    """The inputs of heads of prompts of all views of B clips; a row of a ``FrozenStore``."""

    vectors: Tensor | None
    """(B, views, E)."""
    embedded: Tensor | None
    """(B, views, N, D)."""

    def seen(self, block: int, view: int) -> PromptInput:
        """Return what they see of a view, by its position."""
        return PromptInput(*(part if part is None else part[:, view] for part in self))


def probe_prompts(
    name: str,
    encoder: ProbedEncoder,
    recipe: ProbeRecipe,
    known: Split,
    unseen: Split,
    cluster: Cluster,
    states: HeadStates,
    folder: Path,
) -> dict[str, tuple[Probe | None, ...]]:
    """Train all heads of prompts of a recipe on one network; return probes by name of the result, as ``train_heads``. Collective.

    Args:
        name: name of the model.
        encoder: the frozen network.
        recipe: the probe run.
        known: training clips, all of which can be read.
        unseen: held-out clips.
        cluster: the processes.
        states: place of interrupted trainings.
        folder: of trained prompts.

    Raises:
        ConfigError: if a head does not fit the network or there are no words for a class, or all heads diverged.
    """
    heads, share = (
        [head for head in recipe.heads if head in ALL_HEADS],
        Share(cluster.rank, cluster.world, cluster.sum, cluster.gather),
    )
    with cluster.together():
        bases = {label: _base(name, encoder, recipe, known, label, heads) for label in known[0].label_names}
        for head in heads:  # what does not fit is told before anything is computed
            for base in bases.values():
                if head in PROMPTS:
                    build_prompts(head, base, recipe.prompt, 0)
        any_base = next(iter(bases.values()))
        stores = _stores(heads, name, encoder, any_base, recipe, (known, unseen), share)
    found: dict[str, tuple[Probe | None, ...]] = {}
    for head in heads:
        probes: list[Probe | None] = []
        for number, (label, base) in enumerate(bases.items()):
            halves = halves_of(recipe, known[0], label)
            columns = [split[0].labels[np.asarray(split[1])][:, [number]] for split in (known, unseen)]
            if head == "zero_shot":
                probes += _zero_shot(base, stores[1], columns[1][:, 0], halves, recipe, cluster)
                continue
            probes += _train(name, head, label, base, recipe, stores, columns, halves, share, cluster, states, encoder.device)
            with cluster.together():
                if cluster.is_main:
                    _save(folder, name, head, label, base, recipe, halves, probes[-1 if halves is None else -2])
        found[result_name(name, head)] = tuple(probes)
    return found


def require_words(recipe: ProbeRecipe, manifest: Manifest) -> None:
    """Read the words of all labels that heads ask for, before any clip is read.

    Raises:
        ConfigError: for words of no label, a file that holds none, or a class without words.
    """
    if any(head in ALL_HEADS for head in recipe.heads):
        require_label_words(recipe.prompt.words, manifest.label_names)
    if any(head in WORD_HEADS for head in recipe.heads):
        for label in manifest.label_names:
            _words(recipe, manifest, label)


def _words(recipe: ProbeRecipe, manifest: Manifest, label: str) -> Words:
    named, by_position = label in manifest.class_names, recipe.data.classes_by_position
    return words_for(label_classes(manifest, label), named, recipe.prompt.words.get(label), label, by_position)


def _base(name: str, encoder: ProbedEncoder, recipe: ProbeRecipe, known: Split, label: str, heads: Sequence[str]) -> PromptBase:
    """Return the frozen towers of a model on the device, with the classes of a label in words."""
    model, reads = recipe.models[name], [head for head in heads if head in WORD_HEADS]
    if encoder.encoder is None:
        raise ConfigError(
            f"heads: {heads[0]} looks into the layers of our own networks; take other heads for models with network"
        )
    if model.untrained and reads:
        raise ConfigError(
            f"models.{name}.untrained: a text tower that was never trained names nothing; {reads[0]} takes trained models"
        )
    classes, clip = label_classes(known[0], label), recipe.data.clip
    names = ClassNames(classes, classes, tuple((one,) for one in classes))
    if not reads:
        return PromptBase(encoder.encoder, names)
    words = _words(recipe, known[0], label)
    names = names_of(words, words.words)
    base = open_base(model.weights, (clip.frames, clip.size_px), names, text_encoder, True, f"models.{name}")
    assert base.towers is not None
    base.towers.to(encoder.device)
    base.towers.encoder = encoder.encoder  # the same weights, once
    return base._replace(encoder=encoder.encoder)


def _stores(
    heads: Sequence[str],
    name: str,
    encoder: ProbedEncoder,
    base: PromptBase,
    recipe: ProbeRecipe,
    splits: tuple[Split, Split],
    share: Share,
) -> list[FrozenStore]:
    """Return what heads see of training and held-out clips, kept if both fit into the memory that is set."""
    views, clip = [recipe.views_of(held_out) for held_out in (False, True)], recipe.data.clip
    with_tokens = any(head in PROMPTS and PROMPTS[head].needs_tokens for head in heads)
    every = [1 if recipe.drawn is None else 1 + recipe.drawn.count, 1]

    def see(clips: Tensor) -> PromptInputs:
        """Return what heads see of uint8 (B, 1, crops, C, T, H, W)."""
        with torch.no_grad(), torch.autocast(encoder.device.type, torch.bfloat16, enabled=encoder.is_bf16):
            seen = prompt_input(base.towers, base.encoder, encoder.pixels(clips.flatten(0, 2)), with_tokens)
        return PromptInputs(*(part if part is None else part.unflatten(0, (len(clips), -1)) for part in seen))

    row = see(torch.zeros((1, 1, 1, 3, clip.frames, clip.size_px, clip.size_px), dtype=torch.uint8))
    one = sum(part.numel() * part.element_size() for part in row if part is not None)
    rows = [rows * shape.count * len(split[1]) for rows, shape, split in zip(every, views, splits, strict=True)]
    keep = one * sum(rows) <= recipe.head.keep_gib * 2**30

    def maker(split: Split, shape: ViewSettings, drawn: int) -> Maker:
        def make(groups: Sequence[Sequence[int]]) -> Iterator[PromptInputs]:
            read = read_groups(recipe, split, groups, shape) if drawn == 1 else read_drawn(recipe, split, groups)
            for rows, group in zip(groups, read, strict=True):
                if group.faults or not bool(group.ok.all()):
                    reason = next(iter(group.faults), "a video")
                    raise ConfigError(
                        f"{reason}; it could be read when the probe began: start it again, heads go on where they were"
                    )
                places = [row // drawn for row in rows]
                yield see(shown(group.clips, recipe.models[name], places, recipe.run.seed))

        return make

    return [
        FrozenStore(maker(split, shape, drawn), drawn * len(split[1]), keep, group_size(recipe, shape), encoder.device, share)
        for split, shape, drawn in zip(splits, views, every, strict=True)
    ]


def _train(
    name: str,
    head: str,
    label: str,
    base: PromptBase,
    recipe: ProbeRecipe,
    stores: Sequence[FrozenStore],
    columns: Sequence[np.ndarray],
    halves: ClassHalves | None,
    share: Share,
    cluster: Cluster,
    states: HeadStates,
    device: torch.device,
) -> tuple[Probe | None, ...]:
    progress: list[StepProgress] = []

    def tell(done: int, steps: int) -> None:
        if not progress:
            progress.append(StepProgress(f"{head} of {name} on {label}", done - 1, steps, enabled=cluster.is_main))
        progress[0].update(done, "steps")

    def build(_classes: int, seed: int) -> nn.Module:
        return build_prompts(head, base, recipe.prompt, seed)

    keeper = states.of(f"{name}.{head}.{label}")
    asked, learnt = (recipe.views_of(held_out).count for held_out in (True, False))
    training = Training(1, asked, share, keeper, tell, halves, keeps_heads=True, known_views=learnt)
    try:
        drawn = 0 if recipe.drawn is None else recipe.drawn.count
        known, unseen = (Labelled(*given) for given in zip(stores, columns, (drawn, 0), strict=True))
        return train_heads(build, known, unseen, recipe, device, training)[0]
    finally:
        for bar in progress:
            bar.close()


@torch.inference_mode()
def _zero_shot(
    base: PromptBase, store: FrozenStore, labels: np.ndarray, halves: ClassHalves | None, recipe: ProbeRecipe, cluster: Cluster
) -> list[Probe]:
    """Return the probes of the names of classes alone: all seeds agree."""
    assert base.towers is not None and base.encode is not None
    texts = plain_vectors(base.towers, base.encode, base.names)
    scale, views = base.towers.scale, recipe.views_of(held_out=True).count
    rows = []
    for _, frozen in store.batches(in_groups(range(len(labels)), store.size)):
        assert frozen.vectors is not None
        rows.append(scale * frozen.vectors.float() @ texts.mT)
    scores = torch.cat(rows)
    probes = []
    for part in [None] if halves is None else halves:
        wanted = np.ones(len(labels), bool) if part is None else np.isin(labels, part)
        among = torch.arange(scores.shape[-1]) if part is None else torch.tensor(part)
        told = scores[torch.from_numpy(wanted).to(scores.device)][:, :views, among.to(scores.device)].softmax(-1).mean(1)
        shares, places = (value.cpu().numpy() for value in told.max(-1))
        answers = among.numpy()[places]
        right = np.repeat((answers == labels[wanted])[None], len(recipe.seeds), axis=0)
        answered, sure = (np.repeat(value[None], len(recipe.seeds), axis=0) for value in (answers, shares))
        found = (float(right.mean()), tuple(right.mean(1).tolist()), (), right)
        probes.append(Probe(*found, classes=answered, shares=sure, clips=np.flatnonzero(wanted)))
    return probes


def _save(
    folder: Path,
    name: str,
    head: str,
    label: str,
    base: PromptBase,
    recipe: ProbeRecipe,
    halves: ClassHalves | None,
    probe: Probe | None,
) -> None:
    """Write the prompts of each seed, unless the model was shown clips in a way that no file can say."""
    model = recipe.models[name]
    assert probe is not None
    if model.untrained or model.frames != "all" or model.input_px not in (None, recipe.data.clip.size_px):
        return
    among = halves.base if halves is not None else tuple(range(len(base.names.classes)))
    weights = str(Path(model.weights).resolve())
    clip = PreprocessingSettings(clip=recipe.data.clip)
    card = PromptCard(head, recipe.prompt, weights, digest_of(weights), base.names, among, clip, label)
    for seed, state in zip(recipe.seeds, probe.states, strict=True):
        assert state is not None
        file = folder / f"{name}.{head}.{label}.seed-{seed}.safetensors"
        save_prompts(file, state, card, {"probed_by": dump(recipe), "seed": seed})
