"""The vision-language part of `make gpu-check`: the large model as it says, and the tiny one trains on pictures."""

import argparse
import json

import pytest
import torch
from transformers import AutoModelForImageTextToText, Qwen3VLForConditionalGeneration

from benchmarks.common import BenchRun
from benchmarks.gpu_stages import rows
from benchmarks.gpu_vision import TEXT, VARIANTS, VISION, configure
from benchmarks.pictures import draw_problems, vision_config
from npo_core.models.tiny import IMAGE_SIDES, make_tokenizer, save_random


def test_the_large_model_has_about_100_million_parameters_and_heads_of_64():
    config = vision_config(TEXT, VISION)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert isinstance(model, Qwen3VLForConditionalGeneration)
    assert 95e6 < model.num_parameters() < 105e6
    assert config.text_config.head_dim == config.vision_config.hidden_size // config.vision_config.num_heads == 64
    assert sum(config.text_config.rope_parameters["mrope_section"]) == 32


@pytest.mark.parametrize("model", VARIANTS.values(), ids=VARIANTS)
def test_the_tiny_model_is_trained_and_writes_guidance(model, tmp_path):
    save_random(vision_config({}, {}), make_tokenizer(), tmp_path / "model")
    problems = draw_problems(tmp_path, 16, IMAGE_SIDES)
    options = argparse.Namespace(device="cpu", tiny=True)
    ground = BenchRun(configure(options, problems, model | {"path": str(tmp_path / "model")}), tmp_path / "run")
    scout = ground.train("scout", 2)
    assert [row["step"] for row in rows(ground, scout)] == [1, 2]
    assert ground.guide(scout, [2]).rows > 0
    report = json.loads(next((tmp_path / "run/problems").glob("*/problems.json")).read_text())
    assert report["train"]["images"] == report["train"]["problems"] == 8
