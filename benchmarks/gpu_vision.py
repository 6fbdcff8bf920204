"""The part of `benchmarks.gpu_check` about a vision-language model: a random Qwen3-VL on pictures that are drawn here.

It solves nothing: every completion that ends by itself counts as right, which some of a random model's do.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common import demo_config, say
from benchmarks.gpu_stages import through_stages
from benchmarks.pictures import draw_problems, vision_config
from benchmarks.plan_compare import as_text, compare_training
from npo_core.config import RunConfig
from npo_core.models.tiny import IMAGE_SIDES, make_tokenizer, save_random

SIDES = (64, 256)  # pixels
TEXT = {
    "hidden_size": 768, "num_hidden_layers": 10, "num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 64,
    "intermediate_size": 2560,
}  # fmt: skip
VISION = {
    "hidden_size": 384, "depth": 8, "num_heads": 6, "intermediate_size": 1536, "out_hidden_size": 768,
    "deepstack_visual_indexes": [2, 4],
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "Qwen3-VL, bf16": {"dtype": "float32"},
    "Qwen3-VL, bf16, adapters": {"dtype": "bfloat16", "lora": {}},
}
AT_MOST = (
    "The plan counts prompts as if they were all image, and completions as if none ended by itself: "
    "its memory and tokens are at most."
)
SIZES = {"steps": 10, "prompts_per_step": 8, "group_size": 8, "micro_batch": 32, "max_completion_tokens": 64}
TINY_SIZES = {"steps": 2, "prompts_per_step": 4, "group_size": 4, "micro_batch": 8, "max_completion_tokens": 16}


def configure(options: argparse.Namespace, rows: Path, model: dict[str, Any]) -> RunConfig:
    """One epoch at most, guided from its last update."""
    sizes = TINY_SIZES if options.tiny else SIZES
    steps = sizes["steps"]
    config = demo_config(options.tiny, execution__device=options.device).model_dump()
    config["model"] = {"kind": "pretrained", **model}
    config["problems"] = {
        "kind": "data", "train": {"path": str(rows), "columns": {"images": ["image"]}}, "held_out_rows": 8,
        "answer_pattern": "^()", "max_prompt_tokens": 64 if options.tiny else 128,
    }  # fmt: skip
    config["training"] |= sizes | {"bf16": True, "snapshot_every": steps}
    config["bootstrap"] |= {"scout_steps": steps}
    config["guidance"] |= {"chunk_prompts": 32, "skip_passed": False}
    config["evaluation"] |= {"every": steps}
    return RunConfig.model_validate(config)


def vision_parts(options: argparse.Namespace, folder: Path) -> tuple[dict[str, dict[str, str]], str]:
    """Name -> findings of each variant through the stages; what the plan says beside what training takes."""
    sizes, sides = (TINY_SIZES, IMAGE_SIDES) if options.tiny else (SIZES, SIDES)
    folder.mkdir()
    model = vision_config({}, {}) if options.tiny else vision_config(TEXT, VISION)
    parameters = save_random(model, make_tokenizer(), folder / "model", sides=sides)
    say(f"gpu-check: Qwen3-VL of {parameters / 1e6:.1f} M parameters")
    rows = draw_problems(folder, sizes["steps"] * sizes["prompts_per_step"] + 8, sides)
    found, plans = {}, []
    for number, (name, model) in enumerate(VARIANTS.items()):
        config = configure(options, rows, model | {"path": str(folder / "model")})
        plans.append(compare_training(name, config, folder / f"plan-{number}"))
        found[name] = through_stages(config, folder / f"run-{number}")
    return found, as_text(plans)
