"""The formulas for images against what autograd really keeps of a Qwen3-VL's tower, and what a plan makes of them."""

from dataclasses import replace

import pytest
import torch
from peft import get_peft_model
from settings import LARGE, gpu, kept_by, pretrained
from test_memory import FORMATS
from transformers import AutoConfig, Qwen3VLForConditionalGeneration

from benchmarks.pictures import vision_config
from npo_core.config import Lora
from npo_core.models.lora import lora_config
from npo_core.models.meta import describe, tower
from npo_core.planning import images, make_plan, memory
from npo_core.planning.seconds import passed
from npo_core.planning.setting import Setting
from npo_core.planning.size import Tower

GRID, PICTURES, HIDDEN, INTERMEDIATE, LAYERS = (1, 16, 24), 3, 64, 160, 3
TOKENS = PICTURES * 16 * 24 // 4  # of a row, all of them image
PATCH = 3 * 2 * 16 * 16
PROBLEMS = {
    "kind": "data",
    "train": {"path": "rows.jsonl", "columns": {"images": ["image"]}},
    "held_out_rows": 8,
    "max_prompt_tokens": TOKENS,
}


def setting(dtype="float32", mixed=False, layers=LAYERS, device="cpu", size=LARGE, **changes) -> Setting:
    """One row of images a micro batch."""
    size = replace(size, vision=10**6, tower=Tower(layers, HIDDEN, INTERMEDIATE, PATCH, merged=4, outputs=2))
    fields = {"problems": PROBLEMS, "training__bf16": mixed, "model__dtype": dtype, "training__micro_batch": 1}
    return Setting(pretrained(**fields | changes), size, device)


def kept_by_autograd(
    dtype: str, mixed: bool, layers: int = LAYERS, checkpointing: bool = False, lora: Lora | None = None
) -> tuple[int, int]:
    """Bytes that the tower's forward pass leaves for the backward pass, parameters not counted; its parameters."""
    shape = {"hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "depth": layers, "num_heads": 4}
    model = Qwen3VLForConditionalGeneration(vision_config({}, shape)).to(getattr(torch, dtype)).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if lora is not None:
        model = get_peft_model(model, lora_config(lora, model))
        if checkpointing:  # as TRL does
            model.enable_input_require_grads()
        model = model.base_model.model
    pixels = torch.randn(4 * TOKENS, PATCH)
    grids, tower = torch.tensor([GRID] * PICTURES), model.model.visual
    return kept_by(model, mixed, lambda: tower(pixels, grid_thw=grids)), sum(p.numel() for p in tower.parameters())


@pytest.mark.parametrize("name", FORMATS)
def test_a_block_keeps_what_autograd_keeps(name):
    (more, large), (less, small) = (kept_by_autograd(*FORMATS[name], layers) for layers in (LAYERS, 1))
    copies = 2 * (large - small) if name == "mixed" else 0  # weights in bfloat16, a part of their own
    said = images.block_bytes(setting(*FORMATS[name])) * 4 * TOKENS * (LAYERS - 1)
    assert said == pytest.approx(more - less - copies, rel=0.03)


@pytest.mark.parametrize("name", FORMATS)
def test_the_whole_tower_keeps_what_is_said(name):
    kept, parameters = kept_by_autograd(*FORMATS[name])
    copies = 2 * parameters if name == "mixed" else 0
    pixels = 4 * TOKENS * PATCH * 4 if FORMATS[name] == ("float32", False) else 0  # the rows' own, not copies of them
    said = images.update(setting(*FORMATS[name]))
    assert said["vision tower"] == pytest.approx(kept - copies, rel=0.05)
    assert not pixels or said["images"] == pixels


@pytest.mark.parametrize("lora", [None, Lora(rank=1)])
def test_with_checkpointing_a_block_keeps_its_input(lora):
    (more, _), (less, _) = (kept_by_autograd("bfloat16", True, layers, True, lora) for layers in (LAYERS, 1))
    assert (more - less) / (LAYERS - 1) == pytest.approx(2 * HIDDEN * 4 * TOKENS, rel=0.03)
    adapted = {"size": replace(LARGE, trainable=1000), "model__lora": {"rank": 1}} if lora else {}
    one, three = (
        setting("bfloat16", True, layers, training__gradient_checkpointing=True, **adapted) for layers in (1, LAYERS)
    )
    said = images.update(three)["vision tower"] - images.update(one)["vision tower"]
    assert said == pytest.approx(more - less, rel=0.03)


def test_a_tower_without_adapters_keeps_nothing():
    assert kept_by_autograd("bfloat16", True, lora=Lora(rank=1))[0] == 0
    adapted = setting("bfloat16", True, size=replace(LARGE, trainable=1000), model__lora={"rank": 1})
    assert set(images.update(adapted)) == {"images"}
    seeing = setting("bfloat16", True, size=replace(LARGE, trainable=1000), model__lora={"rank": 1, "vision": True})
    assert images.update(seeing)["vision tower"] > 0


def test_every_completion_has_its_prompts_images_beside_it():
    parts = memory.train(setting(training__generation_batch=8, device="cuda")).phases
    row = 4 * TOKENS * PATCH * 4
    assert parts["generation"]["images"] == parts["prompts"]["images"] == parts["images"]["images"] == 8 * row
    assert parts["update"]["images"] == row and parts["images"]["vision tower"] > 0
    guided = setting(guidance__chunk_prompts=16, guidance__samples_per_round=2)
    asked = memory.guide(guided).phases  # an engine reads a prompt once for its samples
    assert asked["prompts"]["images"] == 16 * row and "images" not in asked["generation"]


def test_on_a_cpu_freed_blocks_stay_where_they_are_small_and_the_tower_is_trained():
    phases = {"update": {"vision tower": 30.0}, "images": {"vision tower": 20.0}, "generation": {"KV cache": 9.0}}
    assert images.left_behind(setting(), phases) == pytest.approx(0.8 * 20)
    adapted = setting(size=replace(LARGE, trainable=1000), model__lora={"rank": 1})
    assert images.left_behind(adapted, phases) == 0
    large = 2**25 // (4 * TOKENS * HIDDEN * 4) + 1
    many = setting(training__micro_batch=large, training__group_size=large, training__prompts_per_step=1)
    assert many.micro_batch == large and images.left_behind(many, phases) == 0


def test_too_many_images_at_once_are_fewer_rows_at_once():
    small = {"parameters": 10**6, "trainable": 10**6, "hidden": 64, "intermediate": 64, "layers": 1, "vocabulary": 64}
    small |= {"heads": 2, "key_value_heads": 2, "head": 8}
    plain = setting(device="cuda", training__max_completion_tokens=4, size=replace(LARGE, **small))
    needed = memory.train(plain)
    assert needed.worst == "images"
    made = make_plan(plain.config, plain.size, gpu(0.9 * needed.peak / 2**30), "grpo")
    assert any("training.generation_batch" in sentence for sentence in made.changes)


def test_what_is_known_of_images_is_said():
    known = setting()
    made = make_plan(known.config, known.size, gpu(80), "grpo")
    assert any("all image" in sentence for sentence in made.assumptions)
    assert not any("mage" in sentence for sentence in made.unknown)
    other = replace(known.size, tower=None)
    made = make_plan(known.config, other, gpu(80), "grpo")
    assert any("vision tower is not known" in sentence for sentence in made.unknown)
    assert "images" not in memory.train(replace(known, size=other)).parts


def test_without_prompts_there_are_no_images():
    least = replace(setting(), longest_prompts=False)
    assert "images" not in memory.train(least).phases and not images.update(least)


def test_patches_pass_the_tower_and_tokens_the_rest():
    blind = replace(setting(), size=replace(setting().size, vision=0, active=LARGE.active - 10**6))
    assert passed(setting(), 5) - passed(blind, 5) == 2 * 10**6 * 4 * TOKENS


def test_a_tower_that_is_built_otherwise_is_not_counted():
    towers = {kind: tower(AutoConfig.for_model(kind).vision_config) for kind in ("qwen3_vl", "qwen2_5_vl", "llava")}
    assert towers["qwen3_vl"] and not towers["qwen2_5_vl"] and not towers["llava"]


def test_a_known_models_tower():
    assert Tower(**describe("Qwen/Qwen3-VL-8B-Instruct")["tower"]) == Tower(27, 1152, 4304, PATCH, 4, 4)
    assert describe("Qwen/Qwen3-8B")["tower"] is None
