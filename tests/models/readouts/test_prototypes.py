"""The head of prototypes: one for patches and class tokens, on the unit sphere, frozen at first."""

from __future__ import annotations

import torch

from mvd_ds.config import DecoderSettings, EncoderSettings, HeadShape, PrototypeSettings
from mvd_ds.models.initialisation import initialise
from mvd_ds.models.readouts import READOUTS, readout_of
from mvd_ds.models.readouts.prototypes import PrototypeReadout

SETTINGS = PrototypeSettings(outputs=7, hidden=12, bottleneck=5, local_crops=2)
SHAPE = HeadShape(7, DecoderSettings(embed_dim=16, depth=1, num_heads=2), "classed", prototypes=SETTINGS)
ENCODER = EncoderSettings(embed_dim=32, depth=1, num_heads=2, cls_token=True)


def built() -> tuple[PrototypeReadout, tuple[torch.Tensor, ...]]:
    readout = initialise(PrototypeReadout(SHAPE, ENCODER, (1, 4, 4)), 0)
    encoded = torch.randn(3, 1 + 10, 32, generator=torch.Generator().manual_seed(0))
    places = torch.arange(16).repeat(3, 1)
    return readout, (encoded, places[:, :10], places[:, 10:])


def test_patches_class_token_and_local_crops_share_one_head() -> None:
    readout, (encoded, visible, masked) = built()
    local = torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(1))
    logits = readout(encoded, visible, masked, local=local)
    assert logits.shape == (3, 6 + 1 + 2, 7) and logits.dtype == torch.float32 and logits.abs().max() <= 1
    assert logits[:, 6].equal(readout.head(encoded[:, 0])) or torch.allclose(logits[:, 6], readout.head(encoded[:, 0]))
    assert torch.allclose(logits[:, 7:], readout.head(local), atol=1e-6)
    assert readout_of(SHAPE) is READOUTS["prototypes"]
    weight, tokens = readout.head.prototypes.weight, encoded[:, 0]
    for layer in readout.head.layers[:-1]:
        tokens = torch.nn.functional.gelu(layer(tokens))
    tokens = readout.head.layers[-1](tokens)
    cosines = torch.nn.functional.cosine_similarity(tokens[:, None], weight[None], dim=-1)
    assert torch.allclose(logits[:, 6], cosines, atol=1e-6)


def test_prototypes_that_do_not_learn_yet_get_a_gradient_of_zeros_and_everything_else_its_own() -> None:
    readout, inputs = built()
    gradients = []
    for learning in (torch.tensor(0.0), torch.tensor(1.0), None):
        readout.zero_grad()
        readout(*inputs, learning=learning).square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in readout.named_parameters()})
    name = "head.prototypes.weight"
    assert not gradients[0].pop(name).any() and torch.allclose(gradients[1].pop(name), gradients[2].pop(name))
    assert all(
        torch.allclose(gradients[0][key], value) and value.any() for key, value in gradients[2].items() if "bias" not in key
    )


def test_operations_are_counted() -> None:
    head = 2 * (32 * 12 + 12 * 12 + 12 * 5 + 5 * 7)
    inner = READOUTS["decoder"].flops(HeadShape(32, SHAPE.decoder), ENCODER, 10, 6)
    assert PrototypeReadout.flops(SHAPE, ENCODER, 10, 6) == inner + (6 + 1 + 2) * head
