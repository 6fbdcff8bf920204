"""The part of `benchmarks.gpu_check` about a vision-language model: a random Qwen3-VL on pictures that are drawn here.

It solves nothing: every completion that ends by itself counts as right, which some of a random model's do.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.common import demo_config, say
from benchmarks.gpu_stages import through_stages
from benchmarks.plan import as_text, compare_training
from npo_core.config import RunConfig
from npo_core.models.tiny import IMAGE_SIDES, make_tokenizer, save_random, shrunk

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
UNCOUNTED = (
    "The plan counts the weights of the vision tower and the tokens of images, not the tower's activations nor pixels. "
    "Its tokens are at most: completions end by themselves."
)
SIZES = {"steps": 10, "prompts_per_step": 8, "group_size": 8, "micro_batch": 32, "max_completion_tokens": 64}
TINY_SIZES = {"steps": 2, "prompts_per_step": 4, "group_size": 4, "micro_batch": 8, "max_completion_tokens": 16}


def vision_config(tiny: bool) -> Any:
    """A Qwen3-VL of 101 M parameters, 26 M of them the vision tower's, heads of 64; or a tiny one."""
    from transformers import Qwen3VLConfig

    values = shrunk(Qwen3VLConfig().to_dict(), make_tokenizer())
    if not tiny:
        values["text_config"] |= TEXT
        values["text_config"]["rope_parameters"] |= {"mrope_section": [12, 10, 10]}  # they share half a head
        values["vision_config"] |= VISION
    return Qwen3VLConfig(**values)


def draw_problems(folder: Path, count: int, sides: tuple[int, int]) -> Path:
    """As many rows with a picture each, whose width and height are between the `sides`; the file of the rows."""
    from PIL import Image

    low, high = sides
    rows = []
    for number in range(count):
        size = (low + 37 * number % (high - low + 1), low + 53 * number % (high - low + 1))
        picture = Image.new("RGB", size, (29 * number % 256, 255 - 29 * number % 256, 99))
        picture.paste((0, 0, 0), (4, 4, 8 + number % (low - 8), low // 2))
        picture.save(folder / f"{number}.png")
        rows.append({"question": f"{number}?", "answer": "x", "image": f"{number}.png"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


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
    parameters = save_random(vision_config(options.tiny), make_tokenizer(), folder / "model", sides=sides)
    say(f"gpu-check: Qwen3-VL of {parameters / 1e6:.1f} M parameters")
    rows = draw_problems(folder, sizes["steps"] * sizes["prompts_per_step"] + 8, sides)
    found, plans = {}, []
    for number, (name, model) in enumerate(VARIANTS.items()):
        config = configure(options, rows, model | {"path": str(folder / "model")})
        plans.append(compare_training(name, config, folder / f"plan-{number}"))
        found[name] = through_stages(config, folder / f"run-{number}")
    return found, as_text(plans)
