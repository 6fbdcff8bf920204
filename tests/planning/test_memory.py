"""The formulas of memory against what autograd really keeps, and against a hand count."""

import pytest
import torch
from peft import get_peft_model
from settings import LARGE, kept_by, pretrained, tiny
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from npo_core.config import Lora
from npo_core.models.load import load_model, narrow_products
from npo_core.models.lora import lora_config
from npo_core.models.tiny import make_tiny
from npo_core.planning import ModelSize, memory
from npo_core.planning.needs import share
from npo_core.planning.setting import Setting
from npo_core.planning.size import model_size

ROWS, TOKENS, LAYERS, HIDDEN, INTERMEDIATE = 4, 70, 3, 256, 768
FORMATS = {
    "float32": ("float32", False),
    "bfloat16": ("bfloat16", False),
    "bfloat16, autocast": ("bfloat16", True),
    "mixed": ("float32", True),
}


def kept_by_autograd(kv_heads: int, dtype: str, mixed: bool, layers: int, checkpointing: bool, lora: bool) -> int:
    """Bytes that a forward pass leaves for the backward pass, parameters not counted."""
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=kv_heads,
        head_dim=32,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config).to(getattr(torch, dtype)).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if lora:
        model = get_peft_model(model, lora_config(Lora(rank=1), model)).base_model.model
    ids = torch.randint(0, 64, (ROWS, TOKENS))
    mask = torch.ones_like(ids)
    mask[:, :3] = 0  # prompts are padded on the left
    return kept_by(model, mixed, lambda: model.model(input_ids=ids, attention_mask=mask, use_cache=False))


def setting(kv_heads: int, dtype: str, mixed: bool, checkpointing: bool = False, lora: bool = False) -> Setting:
    size = ModelSize(9, 9, 1 if lora else 9, 0, 0, LAYERS, HIDDEN, INTERMEDIATE, 8, kv_heads, 32, 64, None, "a test")
    fields = {"training__bf16": mixed, "model__dtype": dtype, "training__max_completion_tokens": TOKENS - 6}
    return Setting(pretrained(**fields, training__gradient_checkpointing=checkpointing), size, "cpu")


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kv_heads", [8, 2])
@pytest.mark.parametrize("name", FORMATS)
def test_a_block_keeps_what_autograd_keeps(name, kv_heads, lora):
    counted = [kept_by_autograd(kv_heads, *FORMATS[name], layers, False, lora) for layers in (1, LAYERS)]
    matrices = 2 * HIDDEN * 32 * (8 + kv_heads) + 3 * HIDDEN * INTERMEDIATE
    copies = 2 * matrices if name == "mixed" else 0  # weights in bfloat16, a part of their own
    block = (counted[1] - counted[0]) / (LAYERS - 1) - copies
    said = memory.block_bytes(setting(kv_heads, *FORMATS[name], lora=lora)) * ROWS * TOKENS
    assert said == pytest.approx(block, rel=0.03)


@pytest.mark.parametrize("name", FORMATS)
def test_with_checkpointing_a_block_keeps_its_input(name):
    counted = [kept_by_autograd(8, *FORMATS[name], layers, True, False) for layers in (1, LAYERS)]
    block = (counted[1] - counted[0]) / (LAYERS - 1)
    assert memory.input_bytes(setting(8, *FORMATS[name])) * ROWS * TOKENS == pytest.approx(block, rel=0.03)


def test_checkpointing_saves_all_blocks_but_one():
    plain, again = (setting(8, *FORMATS["bfloat16"], checkpointing=on) for on in (False, True))
    saved = (LAYERS - 1) * memory.block_bytes(plain) - LAYERS * memory.input_bytes(plain)
    sequence = plain.micro_batch * plain.tokens
    assert memory.activations(plain) - memory.activations(again) == pytest.approx(sequence * saved)


def test_parts_of_training_add_up_by_hand():
    config = pretrained(training__kl_coef=0.1, training__gradient_checkpointing=True)
    parts = memory.train(Setting(config, LARGE, "cuda")).always
    assert parts["weights"] == parts["base model for the KL"] == 2 * LARGE.parameters
    assert parts["AdamW's moments"] == 4 * LARGE.parameters
    update = memory.train(Setting(config, LARGE, "cuda")).phases["update"]
    assert update["gradients"] == 2 * LARGE.parameters
    cache = memory.generation(Setting(config, LARGE, "cuda"), rows=32)["generation"]["KV cache"]
    assert cache == 32 * (1024 + 6) * 2 * 8 * 128 * 2 * 29  # rows, tokens, keys and values, heads, bytes, layers


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["qwen3", "qwen3_moe"])
def test_in_mixed_precision_an_engine_holds_what_is_said(kind, tied, tmp_path):
    """Linear layers in bfloat16 and the rest in float32; experts are no linear layers."""
    make_tiny(kind, tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, tie_word_embeddings=tied)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    size = model_size(pretrained(model__path=str(tmp_path)))
    parts = memory.loaded(Setting(pretrained(model__dtype="float32", training__bf16=True), size, "cuda"))
    model = narrow_products(load_model(tmp_path))
    assert parts["weights"] == sum(p.numel() * p.element_size() for p in model.parameters())
    norms = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    table = size.vocabulary * size.hidden
    copied = 2 * (size.parameters - size.linear - (0 if tied else table))
    assert parts.get("weights in bfloat16", 0) == copied >= 2 * norms


def test_float32_takes_twice_the_weights_of_bfloat16():
    wide, narrow = (memory.train(Setting(pretrained(model__dtype=d), LARGE, "cuda")) for d in ("float32", "bfloat16"))
    for part in ("weights", "AdamW's moments"):
        assert wide.always[part] == 2 * narrow.always[part]


def of_processes(number: int, **changes: object) -> memory.Memory:
    config = pretrained(execution__processes=number, training__micro_batch=8, **changes)
    return memory.train(Setting(config, LARGE, "cuda"))


def test_gpus_share_a_batch_but_not_the_weights():
    one, four = of_processes(1), of_processes(4)
    assert one.phases["generation"]["KV cache"] == 4 * four.phases["generation"]["KV cache"]
    assert one.always["weights"] == four.always["weights"]
    assert four.phases["update"]["gradients to exchange"] == four.phases["update"]["gradients"]


def test_rows_beside_the_batch_and_a_self_teacher_are_counted():
    """Eight prompts with four completions each in micro batches of eight, for four processes one each."""
    replay, append = {"store": {}, "replay": {"rows": 6}}, {"place": "append", "slots": 2}
    for changes, rows in (({}, 8), ({"mix": replay}, 10), ({"mix": replay, "injection": append}, 14)):
        assert (
            Setting(pretrained(execution__processes=4, training__micro_batch=8, **changes), LARGE, "cuda").update_rows
            == rows
        )
    two = Setting(pretrained(training__micro_batch=8, mix=replay), LARGE, "cuda")  # one process, four micro batches
    assert two.update_rows == 10
    plain, taught = of_processes(1), of_processes(1, mix={"self_teacher": {"sync_every": 4}})
    added = {name: taught.always[name] for name in taught.always.keys() - plain.always.keys()}
    assert added == {"weights of the self-teacher": 2 * LARGE.parameters}


def test_sharding_splits_weights_gradients_and_moments():
    whole, split = of_processes(4), of_processes(4, execution__sharding="fsdp2")
    for part in ("weights", "AdamW's moments"):
        assert whole.always[part] == 4 * split.always[part]
    assert whole.phases["update"]["gradients"] == 4 * split.phases["update"]["gradients"]
    assert "gradients to exchange" not in split.phases["update"] and "weights gathered" not in whole.always


def test_a_snapshot_copies_weights_and_moments_and_of_adapters_the_moments_alone():
    whole = setting(8, "float32", False)  # of 9 parameters
    assert memory.copied(whole) == 3 * 4 * 9 == memory.train(whole).phases["snapshot"]["state copied"]
    assert memory.copied(setting(8, "float32", False, lora=True)) == 2 * 4 * 1
    alone = Setting(pretrained(), LARGE, "cuda")
    split = Setting(pretrained(execution__processes=4, execution__sharding="fsdp2"), LARGE, "cuda")
    assert memory.host(alone) == memory.HOST_LIBRARIES + 3 * 2 * LARGE.parameters  # in bfloat16
    two = Setting(pretrained(execution__processes=4, execution__nodes=2), LARGE, "cuda", gpus=4)  # machines
    assert memory.host(two) == 2 * memory.HOST_LIBRARIES + 3 * 2 * LARGE.parameters and two.generating_here == 2
    assert memory.host(split) == 4 * memory.HOST_LIBRARIES + (3 + 2) * 2 * LARGE.parameters  # gathered before


def test_an_evaluation_never_generates_more_than_there_is():
    small = Setting(tiny(evaluation__batch=2048), LARGE, "cpu")
    assert memory.evaluate(small).phases["generation"] == memory.generation(small, rows=32)["generation"]


def test_scoring_takes_as_many_rows_at_once_as_the_engine():
    from npo_core.engines.transformers import MOST_LOGITS

    assert memory.MOST_LOGITS == MOST_LOGITS
    large = Setting(pretrained(), LARGE, "cuda")
    assert memory.scoring(large, 64) == memory.scoring(large, 1) and memory.scoring(large, 1)["logits"] > 0


def test_vllm_has_a_share_of_its_own():
    config = pretrained(engine__kind="vllm", engine__rollouts=True, engine__memory=0.6, engine__rollout_memory=0.3)
    setting = Setting(config, LARGE, "cuda")
    assert set(memory.train(setting).phases) == {"update"} and set(memory.evaluate(setting).phases) == {"check"}
    assert share(setting, "train") == pytest.approx(0.7) and share(setting, "guide") == pytest.approx(0.4)
