"""Cross-attention decoders against an implementation of their own: one query, one head and one level at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mvd_ds.config import ConfigError, DecoderSettings, EncoderSettings, HeadShape, validate
from mvd_ds.models.building import open_model
from mvd_ds.models.initialisation import initialise
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.models.readouts import CrossDecoder
from mvd_ds.models.weights import save_model
from mvd_ds.runs.student import build_predictor

GRID = (2, 3, 3)
WIDTH, HEADS = 16, 2


def shape_of(tokens: str = "masked", **decoder: object) -> HeadShape:
    settings = {"embed_dim": WIDTH, "num_heads": HEADS, "depth": 2, "attention": "cross", **decoder}
    return HeadShape(5, DecoderSettings.model_validate(settings), tokens)


def student(shape: HeadShape, **encoder: object) -> MaskedPredictor:
    settings = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_px": 8, **encoder}
    model = MaskedPredictor(EncoderSettings.model_validate(settings), GRID, {"a": shape})
    torch.manual_seed(0)
    for parameter in model.parameters():  # biases and norms too, which start as constants
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    clip = torch.randn(2, 3, 4, 24, 24, generator=torch.Generator().manual_seed(1))
    order = torch.stack([torch.randperm(18, generator=torch.Generator().manual_seed(seed)) for seed in range(2)])
    return clip, order[:, None, :5], order[:, None, 5:]


def written_out(model: MaskedPredictor, levels: list[Tensor], encoded: Tensor, places: Tensor) -> Tensor:
    """Predictions (B, P, 5) from the encoder's levels and output, each query on its own."""
    weights, settings = dict(model.decoders["a"].named_parameters()), model.heads["a"].decoder
    table = model.decoders["a"].position.table

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    chosen = {"blocks": levels[1:-1], "blocks_and_embedding": levels[:-1], "last": []}[settings.levels]
    rows = []
    for clip, own in enumerate(places):
        found = []
        for place in own:
            x = weights["mask_token.weight"][0, 0] + table[place]
            for index in range(settings.depth):
                source = encoded[clip]
                if settings.levels != "last":
                    shares = weights["mixture.weight"][index]
                    source = sum(share * level[clip] for share, level in zip(shares, [*chosen, encoded], strict=True))
                    source = norm(source, f"level_norms.{index}")
                query = linear(norm(x, f"blocks.{index}.norm_attention"), f"blocks.{index}.attention.query")
                key, value = linear(source, f"blocks.{index}.attention.key_value").split(WIDTH, dim=-1)
                parts = []
                for part in torch.arange(WIDTH).split(WIDTH // HEADS):
                    scores = key[:, part] @ query[part] / (WIDTH // HEADS) ** 0.5
                    parts.append(scores.softmax(0) @ value[:, part])
                x = x + linear(torch.cat(parts), f"blocks.{index}.attention.projection")
                hidden = F.gelu(linear(norm(x, f"blocks.{index}.norm_mlp"), f"blocks.{index}.mlp.expand"))
                x = x + linear(hidden, f"blocks.{index}.mlp.contract")
            found.append(linear(norm(x, "norm"), "head"))
        rows.append(torch.stack(found))
    return torch.stack(rows)


@pytest.mark.parametrize("levels", ["last", "blocks", "blocks_and_embedding"])
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("cls_token", [False, True])
def test_predictions_equal_an_implementation_of_their_own(levels, kernel, cls_token, relative_error):
    model = student(shape_of(levels=levels), attention=kernel, cls_token=cls_token)
    clip, visible, masked = inputs()
    levels_of: list[Tensor] = []
    encoded = model.encoder(clip, visible, levels=levels_of)
    assert len(levels_of) == 4 and torch.equal(model.encoder.norm(levels_of[-1]), encoded)
    expected = written_out(model, levels_of, encoded, masked[:, 0])
    assert relative_error(model(clip, visible, masked)["a"], expected) < 1e-5


def test_visible_tokens_are_asked_for_at_their_places(relative_error):
    clip, visible, masked = inputs()
    found = student(shape_of("all"))(clip, visible, masked)["a"]
    both = student(shape_of())(clip, visible, torch.cat((masked, visible), dim=2))["a"]
    assert found.shape == (2, 18, 5) and torch.equal(found, both)
    assert relative_error(student(shape_of("visible"))(clip, visible, masked)["a"], found[:, 13:]) < 1e-6


def test_a_share_of_the_masked_tokens_is_predicted_as_it_would_be_among_all(relative_error):
    model, (clip, visible, masked) = student(shape_of()), inputs()
    assert relative_error(model(clip, visible, masked[..., 2:6])["a"], model(clip, visible, masked)["a"][:, 2:6]) < 1e-6


@pytest.mark.parametrize("levels", ["last", "blocks_and_embedding"])
def test_every_weight_learns_and_recomputing_changes_nothing(levels, relative_error):
    gradients = {}
    for every in (0, 1, 2):
        model = student(shape_of(levels=levels), activation_checkpointing=every).train()
        clip, visible, masked = inputs()
        uniforms = torch.rand(2, 1, model.drop_path_blocks, generator=torch.Generator().manual_seed(2))
        model(clip, visible, masked, uniforms)["a"].square().mean().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
        gradients[every] = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert relative_error(gradients[1], gradients[0]) < 1e-6 and relative_error(gradients[2], gradients[0]) < 1e-6


def test_dropped_branches_are_left_out():
    """Rates grow from 0 at the first block, as in every stack here; both branches of the second are dropped."""
    (clip, visible, masked), model = inputs(), student(shape_of(drop_path=0.9)).train()
    dropped = model(clip, visible, masked, torch.tensor([0.99] * 4 + [0.0]).expand(2, 1, 5))["a"]
    del model.decoders["a"].blocks[1]
    assert torch.equal(dropped, model(clip, visible, masked)["a"])


@pytest.mark.parametrize("levels", ["last", "blocks", "blocks_and_embedding"])
@pytest.mark.parametrize("tokens", ["masked", "visible", "all"])
def test_operations_are_those_that_torch_counts(levels, tokens):
    shape, (clip, visible, masked) = shape_of(tokens, levels=levels), inputs()
    model = student(shape, attention="eager", cls_token=True)
    decoder, kept = model.decoders["a"], []
    encoded = model.encoder(clip[:1], visible[:1], levels=kept)
    with FlopCounterMode(display=False) as counter:
        decoder(encoded, visible[0], masked[0], None, tuple(kept))
    assert counter.get_total_flops() == CrossDecoder.flops(shape, model.encoder.settings, 5, 13)


def test_weights_depend_on_the_seed_and_the_name_alone():
    models = [initialise(student(shape_of(levels="blocks")), 3) for _ in range(2)]
    assert all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in models), strict=True))


def test_a_model_folder_gives_the_same_student_back(tmp_path):
    recipe = validate(
        {
            "objective": "video_reconstruction",
            "model": {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_px": 8},
            "data": {"clip": {"frames": 4, "size_px": 24}},
            "masking": {"ratio": 0.5},
            "pixels": {},
            "schedule": {"epochs": 1},
            "decoder": {"embed_dim": 16, "num_heads": 2, "attention": "cross", "levels": "blocks"},
        },
        "a test",
    )
    model, (clip, visible, masked) = build_predictor(recipe).eval(), inputs()
    save_model(tmp_path, model.state_dict(), recipe, {})
    opened, _ = open_model(tmp_path)
    assert torch.equal(opened(clip, visible, masked)["pixels"], model(clip, visible, masked)["pixels"])
    with pytest.raises(ConfigError, match="one shape and self-attention, which published layouts demand"):
        _ = model.decoder_settings


@pytest.mark.parametrize(
    ("decoder", "expected"),
    [
        ({"levels": "blocks"}, "decoder.levels blocks is for decoder.attention cross"),
        ({"attention": "cross", "depth": 0}, "decoder.attention cross needs decoder.depth 1 or more"),
    ],
)
def test_shapes_that_do_not_exist_are_refused_in_one_line(decoder, expected):
    recipe = {
        "objective": "video_reconstruction",
        "model": {"embed_dim": 16, "depth": 1, "num_heads": 1},
        "pixels": {},
        "schedule": {"epochs": 1},
        "decoder": decoder,
    }
    with pytest.raises(ConfigError, match=expected) as refused:
        validate(recipe, "a test")
    assert "\n" not in str(refused.value)
