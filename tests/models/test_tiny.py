"""Tiny models are of the classes of large ones, and their fingerprints tell what decides a prompt."""

import json

import pytest
import torch
from transformers import AutoConfig

from npo_core.errors import ConfigError
from npo_core.models.identity import describe
from npo_core.models.load import load_model, load_processor, tokenizer_of
from npo_core.models.tiny import make_tiny


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("qwen3", "Qwen3ForCausalLM"),
        ("qwen3_vl", "Qwen3VLForConditionalGeneration"),
        ("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration"),
        ("qwen3_moe", "Qwen3MoeForCausalLM"),
        ("qwen2", "Qwen2ForCausalLM"),
        ("llama", "LlamaForCausalLM"),
        ("mistral", "MistralForCausalLM"),
    ],
)
def test_the_classes_are_those_of_the_large_model(tiny, kind, model):
    made, processor = load_model(tiny(kind)), load_processor(tiny(kind))
    assert type(made).__name__ == model
    assert (type(processor).__name__ == "Qwen3VLProcessor") == ("_vl" in kind)
    assert sum(p.numel() for p in made.parameters()) < 200_000
    assert made(input_ids=torch.tensor([[71, 72]])).logits.shape[-1] == len(tokenizer_of(processor))


def test_a_folder_is_shrunk_and_the_seed_decides_the_weights(tiny, tmp_path):
    AutoConfig.for_model("qwen3", num_hidden_layers=36, attention_bias=True).save_pretrained(tmp_path / "large")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_tiny(str(tmp_path / "large"), tmp_path / name, seed)
    a, b, c = (load_model(tmp_path / name).state_dict() for name in "abc")
    assert "model.layers.0.self_attn.q_proj.bias" in a and not any("layers.1." in name for name in a)
    weight = "model.embed_tokens.weight"
    assert torch.equal(a[weight], b[weight]) and not torch.equal(a[weight], c[weight])


@pytest.mark.parametrize(
    ("kind", "words"), [("no_such_model", "There is no folder and no type"), ("llava", "only qwen3_vl")]
)
def test_what_cannot_be_made(tmp_path, kind, words):
    with pytest.raises(ConfigError, match=words):
        make_tiny(kind, tmp_path)


def changed(folder, tmp_path, file: str, change) -> dict[str, str]:
    """The fingerprints of a model folder with one of its files changed."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    values = json.loads((tmp_path / file).read_text())
    change(values)
    (tmp_path / file).write_text(json.dumps(values))
    return describe(tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "differs"),
    [
        ("processor_config.json", lambda v: v["image_processor"].update(patch_size=14), {"tokenizer"}),
        ("config.json", lambda v: v["vision_config"].update(depth=9), {"model"}),
        ("config.json", lambda v: v["text_config"].update(num_hidden_layers=9), {"model"}),
        ("config.json", lambda v: v["text_config"].update(dtype="bfloat16"), set()),
    ],
)
def test_fingerprints_of_a_model_that_sees(tiny, tmp_path, file, change, differs):
    before, after = describe(tiny("qwen3_vl")), changed(tiny("qwen3_vl"), tmp_path, file, change)
    assert {name for name in before if before[name] != after[name]} == differs


def test_the_fingerprint_of_a_text_model_is_the_one_it_was(tmp_path):
    """Caches of before know their model by it."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", "hidden_size": 16}))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert describe(tmp_path) == {"model": "65fb499de2034b43", "tokenizer": "c74f3008fdd2f7c5"}
