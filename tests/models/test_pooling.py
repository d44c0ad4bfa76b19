"""One vector per clip."""

from __future__ import annotations

import torch

from mvd_ds.config import EncoderSettings
from mvd_ds.models.pooling import clip_features, mean_tokens
from mvd_ds.models.vit import VisionTransformer


def test_the_class_token_is_left_out():
    tokens = torch.tensor([[[100.0], [1.0], [3.0]]])
    assert mean_tokens(tokens, cls_token=True).item() == 2.0
    assert mean_tokens(tokens[:, 1:], cls_token=False).item() == 2.0
    assert mean_tokens(tokens.bfloat16(), cls_token=True).dtype == torch.float32


def test_video_features_are_the_mean_of_all_tokens():
    encoder = VisionTransformer(EncoderSettings(embed_dim=32, depth=1, num_heads=4, patch_px=8), (2, 4, 4))
    clip = torch.randn(2, 3, 4, 32, 32)
    torch.testing.assert_close(clip_features(encoder, clip), encoder(clip).mean(dim=1))


def test_image_features_are_the_mean_over_frames(image_teacher):
    settings = EncoderSettings(**{key: value for key, value in image_teacher.items() if key != "weights"})
    encoder = VisionTransformer(settings, (1, 4, 4))
    clip = torch.randn(2, 3, 5, 32, 32)
    frames = [encoder(clip[:, :, index : index + 1])[:, 1:].mean(dim=1) for index in range(5)]
    torch.testing.assert_close(clip_features(encoder, clip), torch.stack(frames).mean(dim=0))
