"""Samples of one prompt share its prefill: a prompt goes through the model once, whatever number of samples it has."""

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer


class Cache(DynamicCache):
    """Holds keys in the number format of values.

    In mixed precision a model makes keys in float32 and values in bfloat16, and attention casts both to bfloat16: to
    cast keys once, as they come, changes no bit, and the cache has half the bytes.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `DynamicCache.update`."""
        return super().update(key_states.to(value_states.dtype), value_states, *args, **kwargs)


def shared_prefill(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], prompt_of: torch.Tensor
) -> dict[str, object]:
    """Of a model and prompts that `divide`, for rows: logits behind the prompt, and what goes on from there.

    Args:
        inputs: input_ids and attention_mask [P, T], left-padded, of prompts, each once, and the images beside them.
        prompt_of: [B] the prompt of each row; several may ask the same.
    """
    beside = {name: value for name, value in inputs.items() if name != "input_ids"}
    positions = model._prepare_position_ids_for_generation(inputs["input_ids"], beside)  # [..., P, T]
    cache = Cache(config=model.config)
    output = model(**inputs, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_select_indices(prompt_of)
    return {
        "logits": output.logits[prompt_of, -1],
        "attention_mask": inputs["attention_mask"][prompt_of],
        "position_ids": positions[..., -1:].index_select(-2, prompt_of),  # of the last token
        "past_key_values": cache,
    }


def join(cache: DynamicCache, other: DynamicCache) -> None:
    """Add the rows of another cache that `divide`s; the shorter of the two is padded on the left."""
    for layer, more in zip(cache.layers, other.layers, strict=True):
        layer.keys, layer.values = left_joined(layer.keys, more.keys, -2), left_joined(layer.values, more.values, -2)


def left_joined(rows: torch.Tensor, more: torch.Tensor, columns: int) -> torch.Tensor:
    """Rows of two tensors, one behind the other; `columns`: the dimension in which the shorter gets zeros before it."""
    shape = list(rows.shape)
    shape[0], shape[columns] = len(rows) + len(more), max(rows.shape[columns], more.shape[columns])
    joined = rows.new_zeros(shape)
    for part, place in ((rows, joined[: len(rows)]), (more, joined[len(rows) :])):
        width = part.shape[columns]
        place.narrow(columns, shape[columns] - width, width).copy_(part)
    return joined


def cut(cache: DynamicCache, columns: int) -> None:
    """Take the first columns out of a cache that `divide`s."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[..., columns:, :], layer.values[..., columns:, :]


def divide(model: PreTrainedModel) -> bool:
    """Whether a cache can be handed from prompts to rows: plain attention in every layer."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
