"""A tiny random model of the same classes as a large one, with a tiny tokenizer or processor, for trials and tests."""

import math
from pathlib import Path
from typing import Any

from npo_core.errors import ConfigError
from npo_core.seeds import library_seed

PAD, END = "<|endoftext|>", "<|im_end|>"
VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
SPECIAL = (PAD, "<|im_start|>", END, *VISION)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)  # what Qwen's templates come to, without tools
HEADS, HEAD = 2, 8
SEEING = ("qwen3_vl", "qwen3_vl_moe")  # whose processor is made here
IMAGE_SIDES = (32, 64)  # pixels


def make_tiny(
    model: str, folder: Path | str, seed: int = 0, head: int = HEAD, tokenizer: Any = None, ends: float | None = None
) -> None:
    """Save a random model of a model type (`qwen3`, `qwen3_vl`), or of a folder's configuration, in the HF layout.

    Args:
        head: dimensions of an attention head, a multiple of 8; some kernels know few.
        tokenizer: of a model for text; None: one token a byte.
        ends: about how probable the end token is at every place; None: one in the vocabulary, as chance has it.

    Raises:
        ConfigError: transformers knows no such model, or it sees images by another processor than Qwen3-VL's.
    """
    from transformers import AutoConfig

    try:
        values = (AutoConfig.from_pretrained if Path(model).is_dir() else AutoConfig.for_model)(model).to_dict()
    except (OSError, ValueError) as error:
        raise ConfigError(f"There is no folder and no type of model {model} ({error}): name one of them.") from None
    if values.get("vision_config") and values["model_type"] not in SEEING:
        raise ConfigError(
            f"{values['model_type']} sees images, and of such models only {', '.join(SEEING)} are made tiny."
        )
    tokenizer = tokenizer or make_tokenizer()
    config = AutoConfig.for_model(values.pop("model_type"), **shrunk(values, tokenizer, head))
    save_random(config, tokenizer, folder, seed, ends=ends)


def save_random(
    config: Any,
    tokenizer: Any,
    folder: Path | str,
    seed: int = 0,
    sides: tuple[int, int] = IMAGE_SIDES,
    ends: float | None = None,
) -> int:
    """Save a float32 model of a configuration with random weights, and its tokenizer or processor.

    Args:
        sides: pixels; an image is scaled to an area between the squares of these.
        ends: as of `make_tiny`.

    Returns:
        Its number of parameters.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, set_seed

    from npo_core.models.load import sees_images

    set_seed(library_seed(seed))
    kind = AutoModelForImageTextToText if sees_images(config) else AutoModelForCausalLM
    model = kind.from_config(config).float()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    if ends is not None:
        lean_to_end(model, tokenizer.eos_token_id, ends)
    model.save_pretrained(folder)
    (make_processor(tokenizer, sides) if sees_images(config) else tokenizer).save_pretrained(folder)
    return model.num_parameters()


def lean_to_end(model: Any, end: int, probability: float) -> None:
    """Make the end token about so probable everywhere: all hidden states share a direction that its row answers to."""
    import torch

    words, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    shared = 5 * words.std().item()
    with torch.no_grad():
        words[:, 0] = shared
        state = shared / words.pow(2).mean(-1).sqrt().mean().item()  # of that direction, once normalized
        head[end, 0] = head[:, 0].mean().item() + math.log(probability / (1 - probability) * len(head)) / state


def small(head: int) -> dict[str, Any]:
    """Fields of configurations under the names that models use, and what they become."""
    width = HEADS * head
    return {
        "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 1, "depth": 1, "num_heads": HEADS,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": head, "out_hidden_size": width,
        "max_position_embeddings": 4096, "max_window_layers": 1, "deepstack_visual_indexes": [0], "layer_types": None,
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": width,
    }  # fmt: skip


def shrunk(values: dict[str, Any], tokenizer: Any, head: int = HEAD) -> dict[str, Any]:
    """A configuration's fields with tiny dimensions and the tokens of `make_tokenizer`."""
    tokens = {
        "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{mark}|>") for name, mark in (
            ("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )},
    }  # fmt: skip
    found = {}
    for name, value in values.items():
        if name in ("text_config", "vision_config") and value:
            found[name] = shrunk(value, tokenizer, head)
        elif name == "rope_parameters" and value and "mrope_section" in value:
            found[name] = value | {"mrope_section": [head // 4, head // 8, head // 8]}  # they share half a head
        else:
            found[name] = {**small(head), **tokens}.get(name, value)
    return found


def make_tokenizer() -> Any:
    """One token a byte, and the marks of a chat with images."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import Qwen2TokenizerFast

    symbols = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return Qwen2TokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, padding_side="left", chat_template=TEMPLATE
    )


def make_processor(tokenizer: Any, sides: tuple[int, int]) -> Any:
    """Qwen3-VL's processor, which scales an image to an area between the squares of `sides`, in pixels."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    shortest, longest = (side**2 for side in sides)
    patches = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
    images = Qwen2VLImageProcessor(size={"shortest_edge": shortest, "longest_edge": longest}, **patches)
    return Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(**patches), chat_template=TEMPLATE)
