"""The dimensions of models that are named by hub id, for machines that reach no hub; plans need no more.

Source: config.json of each model at huggingface.co/Qwen. Instruct, Thinking and Base models of a size are built alike;
what they differ in (longest context, rotary base) no plan uses.
"""

from typing import Any

from transformers import PreTrainedConfig, Qwen3Config, Qwen3VLConfig

VOCABULARY, HEAD, KEY_VALUE_HEADS = 151936, 128, 8
# hidden size, intermediate size, layers, heads, whether the head shares the embedding's weights
TEXT = {
    "0.6B": (1024, 3072, 28, 16, True),
    "1.7B": (2048, 6144, 28, 16, True),
    "4B": (2560, 9728, 36, 32, True),
    "8B": (4096, 12288, 36, 32, False),
    "14B": (5120, 17408, 40, 40, False),
    "32B": (5120, 25600, 64, 64, False),
}
# the language model's size; the vision tower's depth, hidden size, intermediate size, and layers that feed deeper ones
VISION = {
    "2B": ("1.7B", 24, 1024, 4096, (5, 11, 17)),
    "4B": ("4B", 24, 1024, 4096, (5, 11, 17)),
    "8B": ("8B", 27, 1152, 4304, (8, 16, 24)),
    "32B": ("32B", 27, 1152, 4304, (8, 16, 24)),
}
SIZES = {f"Qwen/Qwen3-{size}": size for size in TEXT}
SIZES |= {f"Qwen/Qwen3-{size}-Base": size for size in TEXT if size != "32B"}
VISION_SIZES = {f"Qwen/Qwen3-VL-{size}-{form}": size for size in VISION for form in ("Instruct", "Thinking")}


def known_config(path: str) -> PreTrainedConfig | None:
    """The configuration of a model that is known by its hub id; None where it is not."""
    if path in SIZES:
        return Qwen3Config(**text_fields(SIZES[path]), max_position_embeddings=40960)
    if path in VISION_SIZES:
        return vision_language(VISION_SIZES[path])
    return None


def text_fields(size: str) -> dict[str, Any]:
    """The language model's dimensions as transformers names them."""
    hidden, intermediate, layers, heads, tied = TEXT[size]
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "head_dim": HEAD,
        "tie_word_embeddings": tied,
    }


def vision_language(size: str) -> Qwen3VLConfig:
    """The configuration of a Qwen3-VL of a known size."""
    text, depth, hidden, intermediate, deep = VISION[size]
    fields = text_fields(text)
    vision = {
        "depth": depth,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_heads": 16,
        "out_hidden_size": fields["hidden_size"],
        "deepstack_visual_indexes": deep,
    }
    return Qwen3VLConfig(
        text_config={**fields, "max_position_embeddings": 262144, "rope_parameters": ROPE},
        vision_config=vision,
        tie_word_embeddings=fields["tie_word_embeddings"],
    )


ROPE = {"rope_type": "default", "rope_theta": 5_000_000, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
