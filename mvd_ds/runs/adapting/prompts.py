"""Prompts in ``finetune``: the frozen towers of its weights, the losses and episodes of a step, and the files that are left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mvd_ds.config import ConfigError, FinetuneRecipe, dump
from mvd_ds.data.manifests.labels import Classes
from mvd_ds.data.tokens import text_encoder
from mvd_ds.data.words import words_for
from mvd_ds.evaluation.episodes import Episode, draw_episodes, part_loss
from mvd_ds.files import did_you_mean, one_line
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard
from mvd_ds.models.formats import read_checkpoint
from mvd_ds.models.formats.describe import differences
from mvd_ds.models.formats.facts import encoder_facts
from mvd_ds.models.prompts.classifier import PromptedClassifier
from mvd_ds.models.prompts.file import PromptCard, digest_of, names_of, open_base, save_prompts_folder
from mvd_ds.models.prompts.head import PromptBase
from mvd_ds.models.prompts.learning import Asked, PromptLearner
from mvd_ds.models.prompts.table import PROMPTS, build_prompts
from mvd_ds.models.prompts.texts import ClassNames
from mvd_ds.training.classification import Classification
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.device_batch import LabelledBatch, to_device

HEAD = "head."
"""Prefix of the parameters of a learner; files of prompts have none."""
EPISODES = "episodes"
"""Name of the loss of episodes."""


def require_label_words(words: Mapping[str, str], labels: Iterable[str]) -> None:
    """Check that files of words are for labels that there are.

    Raises:
        ConfigError: naming one that is for none.
    """
    known = list(labels)
    odd = next((name for name in words if name not in known), None)
    if odd is not None:
        hint = did_you_mean(odd, known, f"labels are {', '.join(known)}")
        raise ConfigError(f"prompt.words.{one_line(odd, 40)}: there is no such label; {hint}")


def class_names(recipe: FinetuneRecipe, classes: Classes) -> ClassNames:
    """Return the classes of the label in words.

    Raises:
        ConfigError: if there is one class alone, or a class has no words and they are read.
    """
    names, label = classes.names, classes.label
    if len(names) < 2:
        raise ConfigError(f"{recipe.data.manifest}: label {label} has one class, and two at least can be told apart")
    if not PROMPTS[recipe.adaptation.kind].needs_words:
        return ClassNames(names, names, tuple((name,) for name in names))
    require_label_words(recipe.prompt.words, [label])
    words = words_for(names, classes.named, recipe.prompt.words.get(label), label, recipe.data.classes_by_position)
    return names_of(words, words.words)._replace(classes=names)


def open_learner(recipe: FinetuneRecipe, classes: Classes) -> tuple[PromptBase, PromptLearner]:
    """Return the frozen towers of the weights of a recipe, and the prompts that are learned on them; fp32, CPU.

    Raises:
        ConfigError: if the weights are missing, of another architecture, or have no text tower where one is needed.
    """
    assert recipe.weights is not None
    try:
        checkpoint = read_checkpoint(Path(recipe.weights))
    except ConfigError as error:
        raise ConfigError(f"weights: {error}") from None
    norm = encoder_facts(checkpoint).get("final_norm", recipe.model.final_norm)
    if wrong := differences(checkpoint, recipe.model.model_copy(update={"final_norm": norm})):
        raise ConfigError(
            f"weights {recipe.weights}: another architecture: {'; '.join(wrong)}; set model to that of the file, or fit=true"
        )
    kind, clip = recipe.adaptation.kind, recipe.data.clip
    size, needs_words = (clip.frames, clip.size_px), PROMPTS[kind].needs_words
    base = open_base(recipe.weights, size, class_names(recipe, classes), text_encoder, needs_words, "weights")
    return base, PromptLearner(PromptedClassifier(base, build_prompts(kind, base, recipe.prompt, recipe.run.seed)))


def write_learner(
    folder: Path, recipe: FinetuneRecipe, base: PromptBase, weights: Mapping[str, Tensor], card: ClassifierCard, extra: Any
) -> None:
    """Write the prompts of a run as a folder.

    Args:
        folder: written aside, then put in place of what was there.
        recipe: the fine-tuning run.
        base: the towers and the classes.
        weights: state dict of the learner.
        card: names and clips.
        extra: JSON values kept beside.

    Raises:
        ConfigError: if it cannot be written.
    """
    assert recipe.weights is not None
    place, among = str(Path(recipe.weights).resolve()), tuple(range(len(base.names.classes)))
    facts = recipe.adaptation.kind, recipe.prompt, place, digest_of(place), base.names, among, card.preprocessing, card.label
    state = {name.removeprefix(HEAD): value for name, value in weights.items()}
    save_prompts_folder(folder, state, PromptCard(*facts), {**extra, "finetuned_by": dump(recipe)})


class Turn(NamedTuple):
    """An episode of a step, and its numbers over all processes."""

    episode: Episode
    asked: Asked
    factor: Tensor
    """Of the loss of a clip that is asked for, in the mean over micro batches and processes."""


class PromptClassification(Classification):
    """The losses of prompts on one micro batch: each of the head's, the sum of which is minimised, and those of episodes.

    Args:
        network: a ``PromptLearner``, or the engine around one.
        cluster: the processes.
        recipe, teacher, classes: see ``Classification``.
    """

    def __init__(self, recipe: FinetuneRecipe, network: Any, teacher: Any, classes: int, cluster: Cluster) -> None:
        super().__init__(recipe, network, teacher, classes, cluster.device)
        self.recipe, self.classes, self.cluster = recipe, classes, cluster
        head = PROMPTS[recipe.adaptation.kind]
        self.in_episodes = head.has_episodes and recipe.prompt.meta_step > 0
        episodes = (EPISODES,) if self.in_episodes else ()
        self.names = (*head.losses, *episodes, *self.names[1:])
        self.own = head.losses
        self.turns: list[Turn] = []

    def prepare(self, batches: Iterable[LabelledBatch]) -> Iterable[LabelledBatch]:
        """Return the micro batches of a step, after the first half of its episodes, which is over all of them. Collective."""
        if not self.in_episodes:
            return batches
        given = [to_device(batch, self.device) for batch in batches]
        learner: PromptLearner = getattr(self.network, "module", self.network)
        head: Any = learner.head
        seen = [learner.see(self._shown(batch)).vectors for batch in given]
        vectors, labels = torch.cat([part for part in seen if part is not None]), torch.cat([batch.label for batch in given])
        step = int(given[0].place[0]) // self.recipe.batch.global_
        episodes = draw_episodes(range(self.classes), (self.recipe.run.seed, step))
        self.turns = []
        if not episodes:  # of two classes
            return given
        parts = [torch.tensor(part, device=labels.device) for episode in episodes for part in episode]
        counts = self.cluster.sum(torch.stack([torch.isin(labels, part).sum() for part in parts])).unflatten(0, (-1, 2))
        with torch.no_grad():
            prompts = self.network(vectors, "prompts").float()
        prompts.requires_grad_()
        rate = self.recipe.prompt.inner_rate or float(self.network.optimizer.param_groups[0]["lr"])
        for episode, (moving, asking) in zip(episodes, counts, strict=True):
            weights = torch.ones_like(labels, dtype=torch.float32) / moving.clamp_min(1)

            def score(among: Any) -> Tensor:
                return head.by_texts(list(prompts), vectors, among)

            (gradient,) = torch.autograd.grad(part_loss(score, labels, weights, episode.moves), prompts)
            both = (moving > 0) & (asking > 0)  # of a half without clips nothing can be learnt for the other
            factor = both * len(given) * self.cluster.world / asking.clamp_min(1)
            self.turns.append(Turn(episode, Asked(episode.asks, rate * self.cluster.sum(gradient)), factor))
        return given

    def _of_labels(self, shown: Tensor, inputs: LabelledBatch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return logits, the losses by name, and their sum."""
        learnt = self.network(shown, "learn", [turn.asked for turn in self.turns])
        given = inputs.label, inputs.partner, inputs.own_share
        losses = {name: self.on_labels.loss(logits, *given) for name, logits in zip(self.own, learnt, strict=False)}
        if self.in_episodes:
            losses[EPISODES] = torch.zeros((), device=self.device)
        for turn, logits in zip(self.turns, learnt[len(self.own) :], strict=True):
            weights = torch.ones_like(inputs.label, dtype=torch.float32) * turn.factor

            def score(among: Any, logits: Tensor = logits) -> Tensor:
                return logits

            asked = part_loss(score, inputs.label, weights, turn.episode.asks)
            losses[EPISODES] = losses[EPISODES] + self.recipe.prompt.meta_step * asked
        return learnt[0], losses, torch.stack(list(losses.values())).sum()
