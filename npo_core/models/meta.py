"""A model without its weights, on the meta device: what it consists of, counted exactly, at no cost in memory.

    python -m npo_core.models.meta '{"path": "Qwen/Qwen3-8B", "lora": null}'    prints one JSON object

A process of its own, for whoever counts does not want to import torch.
"""

import json
import os
import sys
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)

from npo_core.config import Lora
from npo_core.models.known import known_config
from npo_core.models.load import load_config, narrowed, sees_images
from npo_core.models.there import check_model
from npo_core.process import own_stdout


def read_config(path: str) -> tuple[PreTrainedConfig, str]:
    """A model's configuration, of an adapter its base's, and where it comes from.

    That is a folder or what was downloaded, else the known models, else the hub.

    Raises:
        OSError, ValueError, NPOError: it is nowhere.
    """
    if Path(path).is_dir():
        return load_config(path), "its config.json"
    try:
        return AutoConfig.from_pretrained(path, local_files_only=True), "its config.json"
    except (OSError, ValueError):
        if (known := known_config(path)) is not None:
            return known, "the dimensions published for it"
        check_model(path)  # one try, where a library makes many
        return AutoConfig.from_pretrained(path), "its config.json at the hub"


def meta_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A model of the configuration without memory for its weights (device `meta`)."""
    kind = AutoModelForImageTextToText if sees_images(config) else AutoModelForCausalLM
    with torch.device("meta"):
        return kind.from_config(config)


def describe(path: str, lora: dict[str, Any] | None = None) -> dict[str, Any]:
    """The fields of a `ModelSize`."""
    config, source = read_config(path)
    model = meta_model(config)
    counted = {name: prod(p.shape) for name, p in model.named_parameters()}
    total, text = sum(counted.values()), config.get_text_config()
    experts = sum(size for name, size in counted.items() if ".experts." in name)
    width = getattr(text, "moe_intermediate_size", None) if experts else getattr(text, "intermediate_size", None)
    routed = getattr(text, "num_experts_per_tok", 1)
    number = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None) or routed
    heads = text.num_attention_heads
    return {
        "parameters": total,
        "active": total - experts + experts * routed // number,
        "trainable": total if lora is None else adapters(model, Lora(**lora)),
        "vision": sum(size for name, size in counted.items() if ".visual." in name or "vision_tower" in name),
        "words": words(model),
        "linear": sum(prod(p.shape) for p in narrowed(model)),
        "layers": text.num_hidden_layers,
        "hidden": text.hidden_size,
        "intermediate": (width or 4 * text.hidden_size) * (routed if experts else 1),
        "heads": heads,
        "key_value_heads": getattr(text, "num_key_value_heads", None) or heads,
        "head": getattr(text, "head_dim", None) or text.hidden_size // heads,
        "vocabulary": text.vocab_size,
        "positions": getattr(text, "max_position_embeddings", None),
        "source": source,
        "tower": tower(getattr(config, "vision_config", None)),
    }


def tower(config: PreTrainedConfig | None) -> dict[str, int] | None:
    """The fields of a `Tower`; None where there is none, or one that is not built as Qwen3-VL's."""
    named = ("depth", "hidden_size", "intermediate_size", "patch_size", "temporal_patch_size", "spatial_merge_size")
    given, deep = [getattr(config, name, None) for name in named], getattr(config, "deepstack_visual_indexes", None)
    found = [value for value in given if isinstance(value, int)]
    if deep is None or len(found) < len(named):
        return None
    layers, hidden, intermediate, side, frames, merge = found
    return {
        "layers": layers,
        "hidden": hidden,
        "intermediate": intermediate,
        "patch": getattr(config, "in_channels", 3) * frames * side**2,
        "merged": merge**2,
        "outputs": 1 + len(deep),
    }


def words(model: PreTrainedModel) -> int:
    """Parameters of embedding and head, once where they are the same."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    return sum(prod(p.shape) for p in {id(end.weight): end.weight for end in ends if end is not None}.values())


def adapters(model: PreTrainedModel, lora: Lora) -> int:
    """Parameters of the adapters that would be trained."""
    from peft import get_peft_model

    from npo_core.models.lora import lora_config

    with torch.device("meta"):
        adapted = get_peft_model(model, lora_config(lora, model))
    return sum(prod(p.shape) for p in adapted.parameters() if p.requires_grad)


if __name__ == "__main__":
    answer = own_stdout()
    os.write(answer, json.dumps(describe(**json.loads(sys.argv[1]))).encode() + b"\n")
