"""Samples of one prompt share its prefill: a prompt goes through the model once, whatever number of samples it has."""

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from npo_core.models.load import sees_images


def shared_prefill(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, prompt_of: torch.Tensor
) -> dict[str, object]:
    """What `generate` takes for rows of which several ask the same prompt, of a model whose cache `divides`.

    Args:
        ids, mask: [P, T] left-padded prompts, each once. prompt_of: [B] the prompt of each row.
    """
    rows = {"input_ids": ids[prompt_of], "attention_mask": mask[prompt_of]}
    if ids.shape[1] == 1:
        return rows
    cache = DynamicCache(config=model.config)
    model(
        input_ids=ids[:, :-1],
        attention_mask=mask[:, :-1],
        position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, :-1],
        past_key_values=cache,
        logits_to_keep=1,
    )  # the last token is left for `generate`, which begins with it
    cache.batch_select_indices(prompt_of)
    return rows | {"past_key_values": cache}


def divides(model: PreTrainedModel) -> bool:
    """Whether a cache of this model can be handed from prompts to rows: text, and plain attention in every layer."""
    layers = DynamicCache(config=model.config).layers
    return not sees_images(model.config) and all(type(layer) is DynamicLayer for layer in layers)
