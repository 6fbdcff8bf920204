"""Samples of one prompt share its prefill: a prompt goes through the model once, whatever number of samples it has."""

from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from npo_core.models.inputs import BY_TOKEN, PromptInputs


def shared_prefill(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], prompt_of: torch.Tensor
) -> dict[str, object]:
    """Ids, masks, positions and the cache of all but the last token, of a model and prompts that `divide`, for rows.

    Args:
        inputs: input_ids and attention_mask [P, T], left-padded, of prompts, each once, and the images beside them.
        prompt_of: [B] the prompt of each row; several may ask the same.
    """
    ids = inputs["input_ids"]
    beside = {name: value for name, value in inputs.items() if name != "input_ids"}
    positions = model._prepare_position_ids_for_generation(ids, beside)  # [..., P, T], as `generate` finds them
    cache = DynamicCache(config=model.config)
    rows = {
        "input_ids": ids[prompt_of],
        "attention_mask": inputs["attention_mask"][prompt_of],
        "position_ids": positions.index_select(-2, prompt_of),
        "past_key_values": cache,
    }
    if ids.shape[1] == 1:
        return rows
    cut = {name: value[:, :-1] for name, value in beside.items() if name in ("attention_mask", *BY_TOKEN)}
    model(
        input_ids=ids[:, :-1],
        position_ids=positions[..., :-1],
        past_key_values=cache,
        logits_to_keep=1,
        **beside | cut,
    )  # the last token is left for sampling, which begins with it
    cache.batch_select_indices(prompt_of)
    return rows


def divide(model: PreTrainedModel, prompts: Sequence[PromptInputs]) -> bool:
    """Whether a cache can be handed from prompts to rows: plain attention in every layer, and no image at the end."""
    layers = DynamicCache(config=model.config).layers
    return all(type(layer) is DynamicLayer for layer in layers) and not any(p.ends_in_image for p in prompts)
