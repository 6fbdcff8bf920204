"""The engine in mixed precision: half the bytes, and the bits that float32 weights under autocast give."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache

from npo_core.engines.prefill import shared_prefill
from npo_core.engines.transformers import TransformersEngine
from npo_core.models.inputs import left_padded, read_prompts
from npo_core.models.load import load_model, narrow_products
from npo_core.models.tiny import make_tiny
from npo_core.problems import Problem

PROBLEMS = [
    Problem(id=str(i), prompt=text, answer="", difficulty=0) for i, text in enumerate(["one", "the second", "3"])
]
ASKED = {"samples": 4, "max_tokens": 12, "seed": 7}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny model's folder by its type; of `lora`, an adapter's on a copy of another."""
    made = {}

    def folder(kind: str):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            make_tiny("qwen3" if kind == "lora" else kind, made[kind], ends=0.1)
        if kind == "lora" and not (made[kind] / "adapter").exists():
            adapters = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
            get_peft_model(load_model(made[kind]), adapters).save_pretrained(made[kind] / "adapter")
            TransformersEngine(made[kind]).processor.save_pretrained(made[kind] / "adapter")
        return made[kind] / "adapter" if kind == "lora" else made[kind]

    return folder


def said(engine: TransformersEngine) -> tuple[list[list], list[list[float]]]:
    """Tokens of what it generates, and log-probabilities of them."""
    answers = engine.generate(PROBLEMS, **ASKED)
    pairs = [(problem, c.token_ids) for problem, given in zip(PROBLEMS, answers, strict=True) for c in given]
    scores = engine.score([problem for problem, _ in pairs], [ids for _, ids in pairs])
    return answers, [row.tolist() for row in scores]


@pytest.mark.parametrize("kind", ["qwen3", "qwen3_moe", "qwen3_vl", "llama", "lora"])
def test_narrow_weights_and_keys_change_no_bit(folders, monkeypatch, kind):
    narrow = TransformersEngine(folders(kind), bf16=True)
    found = said(narrow)
    monkeypatch.setattr("npo_core.engines.transformers.narrow_products", lambda model: model)
    monkeypatch.setattr("npo_core.engines.prefill.Cache", DynamicCache)
    wide = TransformersEngine(folders(kind), bf16=True)
    assert found == said(wide)
    assert found != said(TransformersEngine(folders(kind)))  # bfloat16 shows
    assert weight_bytes(narrow) < weight_bytes(wide)


def weight_bytes(engine: TransformersEngine) -> int:
    """Of embeddings, which are not computed with, none."""
    named = engine.model.named_parameters()
    return sum(p.numel() * p.element_size() for name, p in named if "embed" not in name)


def test_what_is_no_matrix_product_keeps_its_format(folders):
    model = TransformersEngine(folders("llama"), bf16=True).model
    formats = {name: p.dtype for name, p in model.named_parameters()}
    assert formats["model.layers.0.self_attn.q_proj.weight"] == formats["lm_head.weight"] == torch.bfloat16
    assert formats["model.embed_tokens.weight"] == formats["model.norm.weight"] == torch.float32


def test_a_head_that_is_the_embedding_stays(folders):
    model = load_model(folders("qwen3"))
    model.lm_head.weight = model.get_input_embeddings().weight
    narrow_products(model)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.lm_head.weight.dtype == torch.float32


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_cache_has_the_format_that_attention_computes_in(folders, bf16, dtype):
    engine = TransformersEngine(folders("qwen3"), bf16=bf16)
    inputs = left_padded(read_prompts(engine.processor, PROBLEMS), 0)
    with torch.inference_mode(), engine._precision():
        cache = shared_prefill(engine.model, inputs, torch.arange(len(PROBLEMS)))["past_key_values"]
    assert {(layer.keys.dtype, layer.values.dtype) for layer in cache.layers} == {(dtype, dtype)}
