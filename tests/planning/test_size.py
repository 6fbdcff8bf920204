"""Parameters are those of the model that will be trained, to the last one."""

import sys

import pytest
from peft import get_peft_model
from settings import pretrained
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

from npo_core.config import BuiltInModel, Lora
from npo_core.models.built_in import qwen3_config
from npo_core.models.known import SIZES, VISION_SIZES, known_config
from npo_core.models.lora import lora_config
from npo_core.models.meta import describe, meta_model, read_config
from npo_core.planning import model_size
from npo_core.planning.size import BUILT_IN_VOCABULARY, built_in
from npo_core.problems.tokenizer import make_tokenizer

GROUPED = {
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
PUBLISHED = {
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032,
    "Qwen/Qwen3-VL-4B-Thinking": 4_437_815_808,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
}


@pytest.mark.parametrize(("layers", "width", "heads"), [(4, 96, 4), (1, 32, 2), (3, 64, 8)])
def test_the_built_in_model_is_counted_exactly(layers, width, heads):
    settings, tokenizer = BuiltInModel(layers=layers, width=width, heads=heads), make_tokenizer()
    model = AutoModelForCausalLM.from_config(qwen3_config(settings, tokenizer, operands=6))
    assert built_in(settings, BUILT_IN_VOCABULARY).parameters == model.num_parameters()
    assert len(tokenizer) == BUILT_IN_VOCABULARY


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_is_counted_exactly_here_and_in_a_process_of_its_own(tmp_path, monkeypatch, tied):
    config = Qwen3Config(**GROUPED, tie_word_embeddings=tied)
    config.save_pretrained(tmp_path)
    asked = pretrained(model__path=str(tmp_path))
    found = model_size(asked)
    if tied:
        monkeypatch.delitem(sys.modules, "transformers")
        assert model_size(asked) == found
        monkeypatch.undo()
    assert found.parameters == found.trainable == AutoModelForCausalLM.from_config(config).num_parameters()
    assert found.words == 211 * 48 * (1 if tied else 2)
    assert (found.layers, found.heads, found.key_value_heads, found.head) == (3, 6, 2, 16)


@pytest.mark.parametrize("targets", [[], ["q_proj", "down_proj"]])
def test_adapters_are_counted_as_training_makes_them(tmp_path, targets):
    config = Qwen3Config(**GROUPED)
    config.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(config)
    adapted = get_peft_model(model, lora_config(Lora(rank=4, targets=targets), model))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    found = describe(str(tmp_path), {"rank": 4, "targets": targets})
    assert found["trainable"] == trained < found["parameters"] == model.num_parameters() - trained


def test_a_token_passes_only_its_experts(tmp_path):
    fields = {**GROUPED, "moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
    Qwen3MoeConfig(**fields).save_pretrained(tmp_path)
    found = describe(str(tmp_path))
    assert found["parameters"] - found["active"] == 3 * 2 * 3 * 48 * 24  # layers, idle experts, their matrices


@pytest.mark.parametrize(("path", "parameters"), PUBLISHED.items())
def test_known_models_have_their_published_size(path, parameters):
    assert sum(p.numel() for p in meta_model(known_config(path)).parameters()) == parameters


def test_known_models_need_no_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert {len(SIZES), len(VISION_SIZES)} == {11, 8}
    assert read_config("Qwen/Qwen3-1.7B")[0].hidden_size == 2048
    assert known_config("somebody/else") is None


def test_what_is_no_model_is_said_to_be_unknown(tmp_path):
    asked = pretrained(model__path=str(tmp_path / "nothing"))
    said = model_size(asked)
    assert isinstance(said, str) and "model.path = " in said and "not known" in said
