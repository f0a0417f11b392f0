"""Prompts to embeddings, for every family whose text encoder is a CLIP text model.

Knows nothing of images or denoisers. Embeddings come from the penultimate layer, as I2VGen-XL was trained
(VGen `i2vgen_xl_train.yaml`, `layer: penultimate`), with the encoder's final layer norm applied.
"""

from __future__ import annotations

from i2v.models.lazy import torch, transformers

__all__ = ["encode_prompts", "tokenize"]


def tokenize(tokenizer: transformers.CLIPTokenizer, prompts: list[str]) -> torch.Tensor:
    """Return token ids padded and cut to the tokenizer's length. Shape (B, tokens), int64."""
    return tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def encode_prompts(
    text_encoder: transformers.CLIPTextModel, input_ids: torch.Tensor, device: torch.device | str | None = None
) -> torch.Tensor:
    """Return prompt embeddings of the penultimate layer, normalised. Shape (B, tokens, hidden).

    `device`: where the encoder computes, to be named when its weights are kept elsewhere.
    """
    outputs = text_encoder(input_ids.to(device or text_encoder.device), output_hidden_states=True)
    return text_encoder.final_layer_norm(outputs.hidden_states[-2])
