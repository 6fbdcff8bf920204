"""From a folder in the Hugging Face layout to a model and what makes its inputs; the one place that chooses classes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npo_core.errors import ConfigError
from npo_core.problems.tokens import ROWS, refuse_beyond

if TYPE_CHECKING:  # who only looks at problems need not wait for torch
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel


def sees_images(config: "PreTrainedConfig") -> bool:
    """Whether a model of this configuration takes images."""
    return getattr(config, "vision_config", None) is not None


def load_config(folder: Path | str) -> "PreTrainedConfig":
    """The configuration of the model of a folder or hub id; of an adapter, its base's."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(base_of(folder))


def load_model(
    folder: Path | str,
    dtype: "torch.dtype | None" = None,
    attention: str = "auto",
    shards: int = 1,
    bf16: bool = False,
) -> "PreTrainedModel":
    """The model of a folder or hub id, on the CPU.

    An adapter comes as a `PeftModel` on its base, unmerged: the forward pass that it was trained with.

    Args:
        dtype: number format of the weights; None keeps the one that it was saved in.
        attention: `sdpa`, `eager`, `flash_attention_2`, or `auto` for the model's own choice.
        shards: above 1, each of as many processes has its part of the weights (FSDP2), on its own device.
        bf16: weights that are split are gathered, and computed with, in bfloat16; gradients are summed in float32.

    Raises:
        ConfigError: the attention is not to be had here, or not in this model.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.distributed import DistributedConfig

    kind = AutoModelForImageTextToText if sees_images(load_config(folder)) else AutoModelForCausalLM
    chosen: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    if attention != "auto":
        chosen["attn_implementation"] = attention
    if shards > 1:
        chosen["distributed_config"] = DistributedConfig(fsdp_size=shards, fsdp_mixed_precision=bf16)
    base = base_of(folder)
    try:
        model = kind.from_pretrained(base, **chosen)
    except (ImportError, ValueError) as error:
        if attention == "auto":
            raise
        raise ConfigError(f"model.attention = {attention} cannot be used: {error} Set it to auto.") from None
    if base == folder:
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder)


def narrow_products(model: "PreTrainedModel") -> "PreTrainedModel":
    """The model, with the weights of its linear layers in bfloat16 now: autocast to it makes copies in every pass.

    What comes out is the same bit for bit, adapters included (LoRA; DoRA computes with the weights themselves). Weights
    that embeddings, norms and experts use, not in linear layers, stay.
    """
    import torch

    for parameter in narrowed(model):
        parameter.data = parameter.data.to(torch.bfloat16)
    return model


def narrowed(model: "PreTrainedModel") -> list["torch.nn.Parameter"]:
    """Weights and biases of linear layers that no embedding shares."""
    from torch import nn

    modules = list(model.modules())
    looked_up = {id(module.weight) for module in modules if isinstance(module, nn.Embedding)}
    linear = [module for module in modules if type(module) is nn.Linear and id(module.weight) not in looked_up]
    return [parameter for module in linear for parameter in module.parameters(recurse=False)]


def load_processor(folder: Path | str) -> Any:
    """What turns a prompt into model inputs, padded on the left: the tokenizer, or of a model that sees the processor.

    Without a pad token it pads with its end token.

    Raises:
        ConfigError: the processor needs a package that is not there, or the tokenizer does not fit the model.
    """
    from transformers import AutoProcessor, AutoTokenizer

    config = load_config(folder)
    try:
        kind = AutoProcessor if sees_images(config) else AutoTokenizer
        processor = kind.from_pretrained(folder, padding_side="left")
    except ImportError as error:
        raise ConfigError(
            f"{folder} is a vision-language model, and its processor cannot be loaded ({str(error).strip()}): install "
            "the extra `vision` of npo-core, or torchvision for the torch that is installed."
        ) from None
    fit_tokenizer(tokenizer_of(processor), config.get_text_config().vocab_size, folder)
    return processor


def fit_tokenizer(tokenizer: Any, rows: int, folder: Path | str) -> None:
    """Give a tokenizer without a pad token its end token for one.

    Raises:
        ConfigError: it has neither, or one of these beyond the `rows` of the model's embedding. Of a prompt's tokens
            it is found out when prompts are read: a tokenizer may have more than its model, of which nothing is used.
    """
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ConfigError(
            f"The tokenizer of {folder} has neither a pad nor an end token, so no completion would end: set eos_token "
            "in its tokenizer_config.json."
        )
    setattr(tokenizer, ROWS, rows)
    special = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    refuse_beyond(tokenizer, [[id_ for id_ in special if id_ is not None]])


def tokenizer_of(processor: Any) -> Any:
    """A processor's tokenizer; a tokenizer is its own."""
    return getattr(processor, "tokenizer", processor)


def base_of(folder: Path | str) -> Path | str:
    """Where the full model of an adapter lies: in the folder beside it that it names, else where it says.

    `folder` itself where it holds no adapter.
    """
    from transformers.utils import find_adapter_config_file

    file = find_adapter_config_file(str(folder))
    if file is None:
        return folder
    name = json.loads(Path(file).read_text())["base_model_name_or_path"]
    beside = Path(folder).parent / name
    return beside if beside.is_dir() else name


def merged(model: "PreTrainedModel") -> "PreTrainedModel":
    """A model as it is; base and adapter as one."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def merged_folder(folder: Path | str, target: Path) -> Path | str:
    """A folder with a full model, for whatever cannot take adapters: `folder` itself, or `target` with a merged copy.

    A merged model rounds otherwise than adapter and base apart: training never reads one.
    """
    if base_of(folder) == folder:
        return folder
    merged(load_model(folder)).save_pretrained(target)
    load_processor(folder).save_pretrained(target)
    return target
