"""The networks of the yardsticks of ``bench step``, computed from the parameters of the product's modules."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.models.attention import Attention
from mvd_ds.models.cross_attention import CrossBlock
from mvd_ds.models.embed import PatchEmbed
from mvd_ds.models.layers import Block
from mvd_ds.models.readouts import CrossDecoder, Decoder
from mvd_ds.models.resampling import resize_grid
from mvd_ds.models.teachers import Teacher
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.objectives.standardisers import STABILISER


class Style(NamedTuple):
    """The properties that the yardsticks differ in."""

    convolution: bool
    fused_attention: bool
    waits: bool
    """Bool masks, whose number of True the host asks for, and ``.item()`` of every loss."""


class ReferenceNetworks:
    """Encoders, decoders and teachers in the way of one yardstick.

    Args:
        style: the yardstick.
    """

    def __init__(self, style: Style) -> None:
        self.style = style

    def levels(self, encoder: VisionTransformer, clip: Tensor, visible: Tensor) -> list[Tensor]:
        """Return the visible tokens (B, V, D) before the first block and after every one."""
        tokens = self._embed(encoder.patch_embed, clip)
        levels = [pick(tokens + encoder.position.table.to(tokens.dtype), visible)]
        for block in encoder.blocks:
            levels.append(self._through((block,), levels[-1]))
        return levels

    def predictions(self, decoder: nn.Module, levels: list[Tensor], visible: Tensor, masked: Tensor) -> Tensor:
        """Return the predictions (B, M, width of the target) of a decoder from ``levels`` of the encoder; the last is normed."""
        if isinstance(decoder, CrossDecoder):
            return self._by_cross(decoder, levels, masked)
        assert isinstance(decoder, Decoder)
        return self._by_self(decoder, levels[-1], visible, masked)

    def _by_self(self, decoder: Decoder, encoded: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Return the predictions (B, M, width of the target)."""
        projected = decoder.projection(encoded)
        table = decoder.position.table.expand(len(projected), -1, -1)
        hidden = decoder.mask_token.weight + pick(table, masked)
        tokens = torch.cat((projected + pick(table, visible).to(projected.dtype), hidden), dim=1)
        tokens = self._through(decoder.blocks, tokens)
        return decoder.head(decoder.norm(tokens[:, -hidden.shape[1] :]))

    def _by_cross(self, decoder: CrossDecoder, levels: list[Tensor], masked: Tensor) -> Tensor:
        """Return the predictions (B, M, width of the target) of mask tokens that look at ``levels``; the last is normed."""
        table = decoder.position.table.expand(len(levels[0]), -1, -1)
        tokens = (decoder.mask_token.weight + pick(table, masked)).to(levels[0].dtype)
        for number, block in enumerate(decoder.blocks):
            assert isinstance(block, CrossBlock)
            source = levels[-1]
            if decoder.mixture is not None:
                shares = decoder.mixture.weight[number]
                chosen = levels[len(levels) - len(shares) :]
                mixed = torch.stack([share * level for share, level in zip(shares, chosen, strict=True)]).sum(dim=0)
                source = decoder.level_norms[number](mixed)
            attention = block.attention
            query = rearrange(attention.query(block.norm_attention(tokens)), "b m (h d) -> b h m d", h=attention.heads)
            packed = rearrange(attention.key_value(source), "b v (two h d) -> two b h v d", two=2, h=attention.heads)
            tokens = tokens + attention.projection(rearrange(self._mix(query, *packed), "b h m d -> b m (h d)"))
            tokens = tokens + block.mlp(block.norm_mlp(tokens))
        return decoder.head(decoder.norm(tokens))

    @torch.no_grad()
    def targets(self, teacher: Teacher, clip: Tensor, masked: Tensor) -> dict[str, Tensor]:
        """Return what is predicted of masked tokens (B, M, D), by name of the output; blocks that nobody reads are not run."""
        encoder, settings, slots = teacher.encoder, teacher.settings, 1
        assert isinstance(encoder, VisionTransformer)
        if settings.kind == "image":
            frames = clip[:, :, settings.frame_in_tubelet :: teacher.student_tubelet_frames]
            slots = frames.shape[2]
            clip = rearrange(frames, "b c s h w -> (b s) c 1 h w")
        tokens = self._embed(encoder.patch_embed, clip)
        if settings.kind == "image":
            tokens = tokens.float()  # positions are fp32 there, and so is the residual stream behind them
        cls = None if encoder.cls_token is None else encoder.cls_token(len(tokens), 1)
        tokens, features, packed = encoder.position(tokens, None, cls), {}, {}
        reads = teacher.network.reads
        for number, block in enumerate(encoder.blocks):
            assert isinstance(block, Block)
            if number in reads.qkv:
                packed[number] = block.attention.qkv(block.norm_attention(tokens))[:, int(settings.cls_token) :]
            if (reads.blocks and number <= reads.blocks[-1]) or number < reads.last:
                tokens = self._through((block,), tokens)
            if number in reads.blocks:
                features[number] = encoder.norm(tokens)[:, int(settings.cls_token) :]
        rows, columns = encoder.grid[1:]
        found = {}
        for suffix, target in settings.targets.items():
            blocks = sorted({block % settings.depth for block in target.blocks})
            outputs = [(packed if target.kind == "relations" else features)[block] for block in blocks]
            made = outputs[0] if len(outputs) == 1 else torch.stack(outputs).float().mean(dim=0)
            made = rearrange(made, "(b s) n d -> b (s n) d", s=slots)
            made = resize_grid(made, (made.shape[1] // (rows * columns), rows, columns), teacher.student_grid)
            # running and phi_s begin as no change: the yardstick leaves them out, and what the product takes more is their cost.
            if target.standardised_by == "token":
                made = F.layer_norm(made.float(), made.shape[-1:], eps=STABILISER)
            found[teacher.name + suffix] = pick(made, masked)
        return found

    def _embed(self, embed: PatchEmbed, clip: Tensor) -> Tensor:
        """Return the embeddings (B, N, D) of all patches."""
        weight, bias = embed.weight, embed.bias
        if self.style.convolution:
            return F.conv3d(clip, weight, bias, stride=weight.shape[2:]).flatten(2).transpose(1, 2)
        frames, rows, columns = weight.shape[2:]
        sides = {"f": frames, "r": rows, "s": columns}
        patches = rearrange(clip, "b c (t f) (h r) (w s) -> b (t h w) (c f r s)", **sides)
        return F.linear(patches, weight.flatten(1), bias)

    def _through(self, blocks: nn.ModuleList | tuple[nn.Module, ...], tokens: Tensor) -> Tensor:
        for block in blocks:
            assert isinstance(block, Block)
            tokens = tokens + self._attend(block.attention, block.norm_attention(tokens))
            tokens = tokens + block.mlp(block.norm_mlp(tokens))
        return tokens

    def _attend(self, attention: Attention, tokens: Tensor) -> Tensor:
        packed = rearrange(attention.qkv(tokens), "b n (three h d) -> three b h n d", three=3, h=attention.heads)
        return attention.projection(rearrange(self._mix(*packed), "b h n d -> b n (h d)"))

    def _mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return (B, heads, n, d) of queries (B, heads, n, d), keys and values (B, heads, N, d)."""
        if self.style.fused_attention:
            return F.scaled_dot_product_attention(query, key, value)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        return scores.softmax(dim=-1).to(value.dtype) @ value


def relation_loss(prediction: Tensor, target: Tensor, heads: int, kinds: tuple[str, ...]) -> Tensor:
    """Return the divergence of the relations of all heads, with every matrix in memory and kept for backward."""
    total = prediction.new_zeros((), dtype=torch.float32)
    packed = "b n (three h d) -> three b h n d"
    mine, theirs = (rearrange(part.float(), packed, three=3, h=heads) for part in (prediction, target))
    for kind in kinds:
        left, right = {"query_key": (0, 1), "value_value": (2, 2)}[kind]
        logits = [(part[left] @ part[right].mT / part.shape[-1] ** 0.5).log_softmax(dim=-1) for part in (mine, theirs)]
        total = total + F.kl_div(*logits, reduction="none", log_target=True).sum(dim=-1).mean()
    return total


def pick(tokens: Tensor, chosen: Tensor) -> Tensor:
    """Return the chosen tokens (B, M, D) of (B, N, D), chosen by a bool (B, N) or an int64 (B, M)."""
    if chosen.dtype == torch.bool:
        return tokens[chosen].reshape(len(tokens), -1, tokens.shape[-1])
    return tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[-1]))
