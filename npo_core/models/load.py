"""From a folder in the Hugging Face layout to a model and what makes its inputs; the one place that chooses classes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from npo_core.errors import ConfigError

if TYPE_CHECKING:  # who only looks at problems need not wait for torch
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel


def sees_images(config: "PreTrainedConfig") -> bool:
    """Whether a model of this configuration takes images."""
    return getattr(config, "vision_config", None) is not None


def load_model(
    folder: Path | str, dtype: "torch.dtype | None" = None, attention: str = "auto", shards: int = 1
) -> "PreTrainedModel":
    """The model of a folder or hub id, on the CPU.

    Args:
        dtype: number format of the weights; None keeps the one that it was saved in.
        attention: `sdpa`, `eager`, `flash_attention_2`, or `auto` for the model's own choice.
        shards: above 1, each of as many processes has its part of the weights (FSDP2), on its own device.

    Raises:
        ConfigError: the attention is not to be had here, or not in this model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.distributed import DistributedConfig

    kind = AutoModelForImageTextToText if sees_images(AutoConfig.from_pretrained(folder)) else AutoModelForCausalLM
    chosen: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    if shards > 1:
        chosen["distributed_config"] = DistributedConfig(fsdp_size=shards)
    if attention == "auto":
        return kind.from_pretrained(folder, **chosen)
    try:
        return kind.from_pretrained(folder, **chosen, attn_implementation=attention)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"model.attention = {attention} cannot be used: {error} Set it to auto.") from None


def load_processor(folder: Path | str) -> Any:
    """What turns a prompt into model inputs, padded on the left: the tokenizer, or of a model that sees the processor.

    Raises:
        ConfigError: the processor needs a package that is not there.
    """
    from transformers import AutoConfig, AutoProcessor, AutoTokenizer

    if not sees_images(AutoConfig.from_pretrained(folder)):
        return AutoTokenizer.from_pretrained(folder, padding_side="left")
    try:
        return AutoProcessor.from_pretrained(folder, padding_side="left")
    except ImportError as error:
        raise ConfigError(
            f"{folder} is a vision-language model, and its processor cannot be loaded ({str(error).strip()}): install "
            "the extra `vision` of npo-core, or torchvision for the torch that is installed."
        ) from None


def tokenizer_of(processor: Any) -> Any:
    """A processor's tokenizer; a tokenizer is its own."""
    return getattr(processor, "tokenizer", processor)
