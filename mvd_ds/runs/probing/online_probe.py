"""A probe that runs during training: nearest neighbours vote on a few labelled clips, every so many steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from mvd_ds.config import TrainingRecipe
from mvd_ds.data.evaluation import evaluation_batches
from mvd_ds.data.manifests.manifest import Manifest, read_manifest
from mvd_ds.data.manifests.mixture import read_mixture
from mvd_ds.data.views import lockstep_groups
from mvd_ds.evaluation.neighbours import few_of_many, leave_one_out
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say
from mvd_ds.training.engine.protocol import Engine
from mvd_ds.training.masked_prediction import EncoderTokens
from mvd_ds.training.step import normalise, to_unit


class OnlineProbe:
    """A hook that measures the top-1 of nearest neighbours on every label, from mean-pooled tokens of whole clips.

    Labels are looked at, never learnt from; a training with a probe takes the same steps to the last bit. Every rank keeps
    its share of the clips as uint8, so that they are decoded once.

    Args:
        engine: around the MaskedPredictor that is trained.
        manifest: manifest with labels.
        videos: indices of its videos to probe on.
    """

    def __init__(self, recipe: TrainingRecipe, engine: Engine, cluster: Cluster, manifest: Manifest, videos: np.ndarray) -> None:
        self.recipe, self.engine, self.cluster, self.manifest = recipe, engine, cluster, manifest
        self.groups = lockstep_groups(len(videos), recipe.batch.micro, cluster.rank, cluster.world)
        self.videos = videos
        self.batches: list[tuple[torch.Tensor, np.ndarray, np.ndarray]] | None = None
        self.alive: Callable[[], None] = lambda: None

    def resume(self, first_step: int) -> None:
        """Do nothing: no state is carried from step to step."""

    def due(self, done: int) -> bool:
        """Return whether the probe runs after step ``done``."""
        return done % self.recipe.run.probe_every_steps == 0

    def __call__(self, done: int) -> dict[str, float]:
        """Return ``probe/LABEL_top1`` in [0, 1] after step ``done``, or nothing while features are not finite. Collective."""
        self.batches = self.batches or self._read()
        self.engine.eval()
        features = [self._features(clips) for clips, _, _ in self.batches]
        self.engine.train()
        mine = [(rows[keep], labels[keep]) for rows, (_, labels, keep) in zip(features, self.batches, strict=True)]
        parts = [part for rank in self.cluster.gather(mine) for part in rank]
        known, labels = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
        if len(known) < 2 or not np.isfinite(known).all():
            return {}
        found = {f"probe/{name}_top1": leave_one_out(known, labels[:, i]) for i, name in enumerate(self.manifest.label_names)}
        if self.cluster.is_main:
            say(
                f"step {done}: nearest neighbours, top-1 of {len(known)} clips: "
                + ", ".join(f"{k[6:-5]} {v:.3f}" for k, v in found.items())
            )
        return found

    def _read(self) -> list[tuple[torch.Tensor, np.ndarray, np.ndarray]]:
        """Return this rank's (clips uint8 (B, C, T, H, W), labels int64 (B, L), counted bool (B,)); broken videos count not."""
        clip = self.recipe.data.clip
        wanted = [int(self.videos[place]) for places, _ in self.groups for place in places]
        read = evaluation_batches(self.recipe.data, self.manifest, self.recipe.batch.micro, clip.frames, clip.size_px, wanted)
        return [
            (clips.clone(), labels.numpy().copy(), ok.numpy() & (np.arange(len(ok)) < counted))
            for (clips, labels, ok), (_, counted) in zip(read, self.groups, strict=True)
        ]

    @torch.no_grad()
    def _features(self, clips: torch.Tensor) -> np.ndarray:
        """Return float32 (B, D) of clips on the CPU, through the engine, as ``visualization.observe`` does."""
        self.alive()
        encoder = self.engine.module.encoder
        pixels = normalise(to_unit(clips.to(self.cluster.device)), next(self.engine.module.parameters()).dtype)
        tokens = int(np.prod(self.recipe.grid))
        everything = torch.arange(tokens, device=pixels.device).repeat(len(pixels), 1, 1)
        with EncoderTokens(encoder, True) as seen:
            self.engine(pixels, everything, everything[:, :, :1])
        assert seen.value is not None
        return seen.value[:, int(encoder.settings.cls_token) :].float().mean(dim=1).cpu().numpy()


def plan_online_probe(recipe: TrainingRecipe) -> tuple[Manifest, np.ndarray] | None:
    """Return the labelled manifest and its videos to probe on, or None if nothing can be probed.

    Raises:
        ConfigError: if the manifest is faulty.
    """
    if not recipe.run.probe_every_steps:
        return None
    held_out = recipe.run.picture_manifest
    if held_out is not None:
        manifest = read_manifest(held_out, setting="run.picture_manifest")
    else:
        manifest = read_mixture(recipe.data).manifests[0]
    if not manifest.label_names or len(np.unique(manifest.labels[:, 0])) < 2:
        return None
    return manifest, few_of_many(manifest.labels, recipe.run.probe_clips, recipe.run.seed)
