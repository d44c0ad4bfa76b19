"""The network of a tokenizer: from a teacher's tokens or a clip to codes, and from codes back to what they stand for."""

from __future__ import annotations

from torch import Tensor, dtype, nn
from torch.nn import functional

from mvd_ds.config import EncoderSettings, Grid
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.models import block_flops
from mvd_ds.models.blocks.norms import NORMS
from mvd_ds.models.blocks.style import BlockStyle
from mvd_ds.models.embed import Position
from mvd_ds.models.layers import Block, drop_path_factors, run_blocks
from mvd_ds.models.linear import Linear
from mvd_ds.models.tokenizers.nearest import nearest_codes
from mvd_ds.models.vit import VisionTransformer, rotary_of


class TokenBlocks(nn.Module):
    """Blocks over all tokens of a clip, with their positions, and a norm behind them; without blocks it changes nothing.

    Args:
        inputs: channels of a token that comes in.
        width: channels of a token inside.
        heads: attention heads.
        depth: number of blocks.
        mlp_ratio: hidden width of the MLP over ``width``.
        settings: everything else of the blocks.
        grid: (t, h, w) token grid.
        drop_path: rate of the last block.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        heads: int,
        depth: int,
        mlp_ratio: float,
        settings: EncoderSettings,
        grid: Grid,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.drop_path, self.checkpoint_every = drop_path, settings.activation_checkpointing
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, settings.qkv_bias, settings.attention, settings.norm_eps, BlockStyle.of(settings))
            for _ in range(depth)
        )
        if depth:
            self.expand = Linear(inputs, width)
            self.position = Position(settings.position, grid, width)
            self.rotary = rotary_of(settings, grid, width // heads, 0)
            self.norm = NORMS[settings.norm](width, eps=settings.norm_eps)

    def forward(self, tokens: Tensor, drop_path: Tensor | None = None) -> Tensor:
        """Map (B, N, inputs) to (B, N, width); ``drop_path`` are uniforms (B, depth), or None."""
        if not self.blocks:
            return tokens
        tokens = self.position(self.expand(tokens))
        factors = drop_path_factors(drop_path, self.drop_path, self.training)
        turns = None if self.rotary is None else self.rotary(None)
        return self.norm(run_blocks(self.blocks, tokens, factors, self.checkpoint_every, turns=turns))


class TokenEncoder(nn.Module):
    """The way from tokens, standardised ones of a teacher or those of an encoder of pixels, to what codes are chosen for.

    Of ``vq`` these are blocks, then Linear, Tanh, Linear, and length 1; of ``kmeans`` the tokens as they are. Source: BEiT v2.

    Args:
        recipe: the recipe of the tokenizer.
    """

    def __init__(self, recipe: TokenizerRecipe) -> None:
        super().__init__()
        model, inner = recipe.model, recipe.model.embed_dim
        self.tokens = TokenBlocks(
            recipe.token_width, inner, model.num_heads, recipe.token_blocks, model.mlp_ratio, model, recipe.grid, model.drop_path
        )
        self.to_code: nn.Sequential | None = None
        if recipe.tokenizer.method == "vq":
            self.to_code = nn.Sequential(Linear(inner, inner), nn.Tanh(), Linear(inner, recipe.code_width))

    def forward(self, tokens: Tensor, drop_path: Tensor | None = None) -> Tensor:
        """Map tokens fp32 (B, N, D) to vectors fp32 (B, N, d)."""
        if self.to_code is None:
            return tokens
        tokens = self.tokens(tokens.to(_dtype(self)), drop_path)
        return functional.normalize(self.to_code(tokens).float(), dim=-1)


class CodeDecoder(nn.Module):
    """The way from codes to what they are to reconstruct: blocks, then Linear, Tanh, Linear; a linear map without blocks.

    Source: BEiT v2.

    Args:
        recipe: the recipe of the tokenizer.
    """

    def __init__(self, recipe: TokenizerRecipe) -> None:
        super().__init__()
        model, shape = recipe.model, recipe.reconstructed
        width, heads, rate, _ = shape.decoder.sizes(model)
        self.tokens = TokenBlocks(
            recipe.code_width, width, heads, shape.decoder.depth, shape.decoder.mlp_ratio, model, recipe.grid, rate
        )
        self.head = (
            nn.Sequential(Linear(width, width), nn.Tanh(), Linear(width, shape.width))
            if shape.decoder.depth
            else nn.Sequential(Linear(recipe.code_width, shape.width))
        )

    def forward(self, codes: Tensor, drop_path: Tensor | None = None) -> Tensor:
        """Map code vectors (B, N, d) to predictions (B, N, P)."""
        return self.head(self.tokens(codes.to(_dtype(self)), drop_path))


class Tokenizer(nn.Module):
    """Encoder, choice of codes, decoder; the codes themselves belong to whoever moves them, and are handed in.

    ``pixels`` comes before all these where codes are those of clips, and makes the tokens that a teacher gives elsewhere.

    Args:
        recipe: the recipe of the tokenizer.
    """

    def __init__(self, recipe: TokenizerRecipe) -> None:
        super().__init__()
        self.pixels = VisionTransformer(recipe.model, recipe.grid) if recipe.sees_pixels else None
        self.encoder = TokenEncoder(recipe)
        self.decoder = CodeDecoder(recipe)
        self.depths = [recipe.model.depth, recipe.decoder.depth]

    def forward(self, seen: Tensor, vectors: Tensor, drop_path: Tensor | None = None) -> dict[str, Tensor]:
        """Return what becomes of standardised tokens, or of clips.

        Args:
            seen: tokens fp32 (B, N, D), or clips (B, C, T, H, W) normalised.
            vectors: fp32 (K, d), one for each code.
            drop_path: uniforms (B, depth of encoder + decoder) in [0, 1), or None.

        Returns:
            ``encoded`` (B, N, d), ``codes`` int64 (B, N), ``chosen`` (B, N, d) vectors of the codes without a gradient, and
            ``prediction`` (B, N, P), whose gradient passes the choice straight through.
        """
        of_encoder, of_decoder = (None, None) if drop_path is None else drop_path.split(self.depths, dim=-1)
        if self.pixels is not None:
            tokens = self.pixels(seen, drop_path=None if of_encoder is None else of_encoder[:, None])
            seen, of_encoder = tokens[:, int(self.pixels.settings.cls_token) :], None
        encoded = self.encoder(seen, of_encoder)
        codes = nearest_codes(encoded.detach(), vectors)
        chosen = vectors[codes]
        straight = encoded + (chosen - encoded).detach()
        return {"encoded": encoded, "codes": codes, "chosen": chosen, "prediction": self.decoder(straight, of_decoder)}


def _dtype(module: nn.Module) -> dtype:
    return next(module.parameters()).dtype


def encoder_flops(recipe: TokenizerRecipe, tokens: int) -> int:
    """Return the operations of the encoder before the codes for ``tokens`` tokens of a clip."""
    model = recipe.model
    if recipe.sees_pixels:
        return block_flops.encoder_flops(model, tokens, model.depth)
    entry = 2 * tokens * recipe.token_width * model.embed_dim if model.depth else 0
    return entry + model.depth * block_flops.block_flops(tokens, model.embed_dim, model.mlp_ratio, model.mlp)


def decoder_flops(recipe: TokenizerRecipe, tokens: int) -> int:
    """Return the operations of a decoder for ``tokens`` tokens of a clip."""
    shape = recipe.reconstructed
    if not shape.decoder.depth:
        return 2 * tokens * recipe.code_width * shape.width
    width = shape.decoder.sizes(recipe.model).width
    blocks = shape.decoder.depth * block_flops.block_flops(tokens, width, shape.decoder.mlp_ratio, recipe.model.mlp)
    return blocks + 2 * tokens * width * (recipe.code_width + width + shape.width)
