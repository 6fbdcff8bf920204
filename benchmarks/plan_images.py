"""The part of `benchmarks.plan` about images: a random Qwen3-VL, and prompts that are a picture and a number."""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import demo_config
from benchmarks.pictures import draw_problems, vision_config
from benchmarks.plan_compare import compare_memory, compare_training, never_end
from npo_core.config import RunConfig
from npo_core.models.tiny import make_tokenizer, save_random
from npo_core.planning import memory, model_size
from npo_core.planning.setting import Setting

SIDE, WORDS = 384, 24  # pixels of a picture; tokens around it
TEXT = {
    "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64,
    "intermediate_size": 1024,
}  # fmt: skip
VISION = {
    "hidden_size": 256, "depth": 8, "num_heads": 4, "intermediate_size": 1024, "out_hidden_size": 256,
    "deepstack_visual_indexes": [1, 2],
}  # fmt: skip
MIXED, ADAPTERS = {"training": {"bf16": True}}, {"model": {"dtype": "bfloat16", "lora": {"rank": 16}}}
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, again": {"training": {"gradient_checkpointing": True}},
    "mixed": MIXED,
    "bfloat16, adapters of 16": ADAPTERS | MIXED,
    "bfloat16, adapters of 16, again": ADAPTERS | {"training": {"bf16": True, "gradient_checkpointing": True}},
}
SIZES = {"steps": 3, "prompts_per_step": 4, "group_size": 8, "micro_batch": 8, "max_completion_tokens": 16}


def configure(folder: Path, variant: dict[str, Any], device: str, quick: bool) -> RunConfig:
    """Three updates on pictures of one size, of a model that never ends a completion."""
    model, tokenizer = folder / "model", make_tokenizer()
    if not model.exists():
        shape = vision_config({}, {}) if quick else vision_config(TEXT, VISION)
        save_random(shape, tokenizer, model, sides=(SIDE, SIDE))
        never_end(model, tokenizer.eos_token_id)
        draw_problems(folder, 3 * SIZES["prompts_per_step"] + 16, (SIDE, SIDE))
    config = demo_config(True, execution__device=device).model_dump()
    config["model"] = {"kind": "pretrained", "path": str(model), "dtype": "float32"} | variant.get("model", {})
    config["problems"] = {
        "kind": "data", "train": {"path": str(folder / "rows.jsonl"), "columns": {"images": ["image"]}},
        "held_out_rows": 16, "answer_pattern": "^()", "max_prompt_tokens": (SIDE // 32) ** 2 + WORDS,
    }  # fmt: skip
    config["training"] |= SIZES | {"snapshot_every": SIZES["steps"]} | variant.get("training", {})
    config["bootstrap"] |= {"scout_steps": SIZES["steps"]}
    config["evaluation"] |= {"every": SIZES["steps"], "samples": 4}
    return RunConfig.model_validate(config)


def image_cases(device: str, quick: bool) -> tuple[list[dict], list[dict]]:
    """Training, and an evaluation: said and measured."""
    with tempfile.TemporaryDirectory(prefix="npo-plan-") as name:
        folder, found = Path(name), []
        for number, (form, variant) in enumerate(list(VARIANTS.items())[: 1 if quick else None]):
            config = configure(folder, variant, device, quick)
            found.append(compare_training(f"with images, {form}", config, folder / f"run-{number}"))
        config = configure(folder, {}, device, quick)
        need = memory.evaluate(Setting(config, model_size(config), device))
        return found, [compare_memory("evaluate 64 completions with images", need, config, folder / "evaluate")]
