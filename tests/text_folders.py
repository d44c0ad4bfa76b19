"""Small folders of transformers with a text tower: random weights, and a tokenizer of eight words or of letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

KINDS = ("clip", "siglip", "siglip2")
WORDS = ("a", "three", "circles", "out", "fast", "slow", "and", "back", "<s>", "</s>", "<pad>", "<unk>")
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 10,
    "vocab_size": 40,
}
SPACE = 16


def write_text_folder(kind: str, folder: Path) -> Any:
    """Write a folder of ``kind`` with a tokenizer, and return the network of transformers in it."""
    import transformers

    seen: dict[str, Any] = {"hidden_size": SPACE, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
    seen |= {"patch_size": 8, **({"num_patches": 4} if kind == "siglip2" else {"image_size": 16})}
    if kind == "clip":
        ends = {"bos_token_id": 8, "eos_token_id": 9, "projection_dim": SPACE}
        config: Any = transformers.CLIPConfig(text_config={**TEXT, **ends}, vision_config=seen, projection_dim=SPACE)
        made: Any = transformers.CLIPModel(config)
    else:
        ends = {"bos_token_id": 2, "eos_token_id": 1, "projection_size": SPACE}
        name = {"siglip": "Siglip", "siglip2": "Siglip2"}[kind]
        config = getattr(transformers, f"{name}Config")(text_config={**TEXT, **ends}, vision_config=seen)
        made = getattr(transformers, f"{name}Model")(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in made.parameters():
            value.add_(torch.randn(value.shape, generator=generator) * (0.1 if value.ndim else 0.5))
    made.eval().save_pretrained(folder)
    _tokenizer(kind).save_pretrained(folder)
    return made


def _tokenizer(kind: str) -> Any:
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    if kind == "siglip2":
        letters = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *"▁abcdefghijklmnopqrstuvwxyz.", "th", "thr")
        numbers = {letter: number for number, letter in enumerate(letters)}
        more = {"padding_side": "right", "add_eos_token": True}
        return transformers.Siglip2Tokenizer(vocab=numbers, merges=[("t", "h"), ("th", "r")], **more)
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer, words.normalizer = pre_tokenizers.Whitespace(), normalizers.Lowercase()
    words.add_special_tokens(["<s>", "</s>", "<pad>"])
    row = "<s> $A </s>" if kind == "clip" else "$A </s>"
    words.post_processor = processors.TemplateProcessing(single=row, special_tokens=[("<s>", 8), ("</s>", 9)])
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, padding_side="right", **special)
