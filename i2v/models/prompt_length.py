"""Tells which part of a prompt a model would not read, without torch, so that any face can say so before a run."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

__all__ = ["PromptLength", "measure_prompt"]

# How CLIP splits words (Radford et al., 2021), as transformers' CLIPTokenizer does it.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class PromptLength:
    """How many tokens a prompt takes, marks included, and the text past the limit ("" when it fits)."""

    def __init__(self, tokens: int, limit: int, cut: str):
        self.tokens, self.limit, self.cut = tokens, limit, cut


def measure_prompt(tokenizer_folder: Path, prompt: str, limit: int, marks: int = 2) -> PromptLength:
    """Count a prompt's tokens with the model's own tokenizer; `marks`: those it adds, such as start and end.

    Raises OSError or ValueError when the tokenizer cannot be read.
    """
    encoding = _tokenizer(tokenizer_folder).encode(prompt, add_special_tokens=False)
    tokens = len(encoding.ids) + marks
    if tokens <= limit:
        return PromptLength(tokens, limit, "")
    first_lost = encoding.offsets[limit - marks][0]
    return PromptLength(tokens, limit, prompt[first_lost:])


@lru_cache(maxsize=8)
def _tokenizer(folder: Path) -> Tokenizer:
    whole = folder / "tokenizer.json"
    if whole.is_file():
        text = whole.read_text(encoding="utf-8")
        json.loads(text)  # a file cut short is a ValueError here; the library's is a bare Exception
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [(a, b) for a, _, b in (line.partition(" ") for line in lines if not line.startswith("#version")) if b]
    tokenizer = Tokenizer(models.BPE(vocab, merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer
