"""Readouts without blocks: what they compute, and the product that masked tokens keep to the bit."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mvd_ds.config import DecoderSettings, EncoderSettings, HeadShape
from mvd_ds.models.initialisation import initialise
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.models.readouts import READOUTS, readout_of

PLAIN, MLP = DecoderSettings(depth=0), DecoderSettings(depth=0, hidden=12)


def predict(cls_token: bool, **heads: HeadShape) -> tuple[MaskedPredictor, torch.Tensor, dict[str, torch.Tensor]]:
    """A student with these readouts, what its encoder gives (2, [1 +] 3, 16), and its predictions for two clips."""
    encoder = EncoderSettings(embed_dim=16, depth=1, num_heads=2, patch_px=8, cls_token=cls_token)
    model = initialise(MaskedPredictor(encoder, (2, 2, 2), heads), 0).eval()
    clip = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    visible, masked = torch.tensor([[[0, 3, 5]], [[1, 2, 7]]]), torch.tensor([[[4, 1]], [[0, 6]]])
    with torch.no_grad():
        return model, model.encoder(clip, visible), model(clip, visible, masked)


def test_linear_and_mlp_on_every_visible_token() -> None:
    model, encoded, found = predict(True, linear=HeadShape(5, PLAIN, "visible"), mlp=HeadShape(7, MLP, "visible"))
    head = model.decoders["linear"].head
    torch.testing.assert_close(found["linear"], F.linear(encoded[:, 1:], head.weight, head.bias))
    mlp = model.decoders["mlp"]
    hidden = F.gelu(F.linear(encoded[:, 1:], mlp.expand.weight, mlp.expand.bias))
    torch.testing.assert_close(found["mlp"], F.linear(hidden, mlp.head.weight, mlp.head.bias))


def test_a_summary_is_the_class_token_or_the_mean() -> None:
    for cls_token in (True, False):
        model, encoded, found = predict(cls_token, one=HeadShape(5, PLAIN, "summary"))
        pooled, head = encoded[:, 0] if cls_token else encoded.mean(dim=1), model.decoders["one"].head
        torch.testing.assert_close(found["one"], F.linear(pooled, head.weight, head.bias))


def test_readouts_are_found_by_what_is_asked() -> None:
    deep = DecoderSettings(depth=2)
    asked = {
        "decoder": [HeadShape(1, deep), HeadShape(1, PLAIN), HeadShape(1, deep, "visible"), HeadShape(1, PLAIN, "all")],
        "tokens": [HeadShape(1, PLAIN, "visible")],
        "summary": [HeadShape(1, PLAIN, "summary")],
        "labels": [HeadShape(1, MLP, "summary", "layer")],
    }
    for name, shapes in asked.items():
        assert all(readout_of(shape) is READOUTS[name] for shape in shapes)


def test_predictions_of_masked_tokens_do_not_change_by_a_bit() -> None:
    small = DecoderSettings(embed_dim=16, num_heads=2, depth=1)
    alone = predict(False, a=HeadShape(5, small))[2]["a"]
    others = {"b": HeadShape(5, PLAIN, "summary"), "labels": HeadShape(3, MLP, "summary", "batch")}
    found = predict(False, a=HeadShape(5, small, "all"), **others)[2]
    assert torch.equal(found["a"][:, :2], alone) and found["labels"].shape == (2, 3)
