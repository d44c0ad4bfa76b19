"""Zero-shot logits are scaled cosines, in fp32 whatever the network computes in."""

from __future__ import annotations

import torch
from torch import nn

from mvd_ds.models.adaptors.text_vectors import TextVectors
from mvd_ds.models.adaptors.zero_shot import ZeroShotClassifier


def test_logits_are_scaled_cosines_whatever_the_lengths() -> None:
    text = TextVectors(("east", "north"), torch.eye(2), scale=10.0)
    classifier = ZeroShotClassifier(nn.Identity(), text)
    vectors = torch.tensor([[3.0, 4.0], [-0.2, 0.0]])
    assert torch.allclose(classifier(vectors), torch.tensor([[6.0, 8.0], [-10.0, 0.0]]))
    assert classifier(vectors.bfloat16()).dtype == torch.float32 and not classifier.state_dict()
