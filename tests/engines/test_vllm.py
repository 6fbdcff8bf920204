"""Real generation by vLLM on a CPU, in its own interpreter."""

from collections import Counter

import numpy as np
import pytest
import torch

from npo_core.engines.check import k3
from npo_core.engines.vllm import VLLMEngine
from npo_core.errors import ConfigError, DataError, EngineError
from npo_core.models.load import load_model, load_processor

TOKENS = 4


@pytest.fixture
def engine(models, worker):
    return VLLMEngine(models["a"], worker)


def ids(answers) -> list[list[list[int]]]:
    return [[c.token_ids for c in given] for given in answers]


def test_completions_end_and_read_as_they_should(engine, problems):
    end = set(engine.own.eos_ids)
    whole, cut = (
        [c for given in engine.generate(problems.train[:16], samples=3, max_tokens=most, seed=1) for c in given]
        for most in (TOKENS, 2)
    )
    assert len(whole) == len(cut) == 48
    assert all(c.finished and c.token_ids[-1] in end and not end & set(c.token_ids[:-1]) for c in whole)
    assert all(not c.finished and len(c.token_ids) == 2 and not end & set(c.token_ids) for c in cut)
    assert [c.token_ids[:2] for c in whole] == [c.token_ids for c in cut]
    assert all(c.text == engine.own.tokenizer.decode(c.token_ids, skip_special_tokens=True) for c in whole + cut)


def test_a_seed_gives_the_same_completions_in_whatever_batch(engine, problems):
    asked = problems.train[:24]
    first = ids(engine.generate(asked, samples=3, max_tokens=TOKENS, seed=7))
    assert ids(engine.generate(asked, samples=3, max_tokens=TOKENS, seed=7)) == first
    assert ids(engine.generate(asked[::-2], samples=3, max_tokens=TOKENS, seed=7)) == first[::-2]
    assert ids(engine.generate(asked, samples=3, max_tokens=TOKENS, seed=8)) != first


def test_nothing_is_cut_off_and_the_temperature_is_one(engine, problems):
    """Shares of first tokens in 4,000 samples against the probabilities that the trainer's model gives them."""
    problem, samples = problems.train[0], 4000
    drawn = Counter(c[0] for c in ids(engine.generate([problem], samples=samples, max_tokens=1, seed=3))[0])
    tokens = list(range(len(engine.own.tokenizer)))
    expected = np.exp([row[0] for row in engine.score([problem] * len(tokens), [[token] for token in tokens])])
    share = np.array([drawn[token] for token in tokens]) / samples
    assert np.all(np.abs(share - expected) < 4.5 * np.sqrt(expected / samples) + 1 / samples)
    assert expected.max() < 0.9 and len(drawn) > 5  # else any temperature would do


def test_more_prompt_tokens_than_vllm_takes_in_a_step(engine, worker, problems):
    """On a CPU a seeded request that is prefilled in two steps fails: none may be."""
    worker.load(engine.folder, "float32")
    room, step = worker.longest, 4096
    prompts = [([4 + (i + j) % 9 for j in range(room - 2)], [], i) for i in range(2 * step // room)]
    asked_for = {"samples": 1, "max_tokens": 2, "eos_ids": engine.own.eos_ids, "logprobs": False}
    together = worker.generate(prompts, **asked_for)
    assert [together[i] for i in (0, 70)] == worker.generate([prompts[0], prompts[70]], **asked_for)


def test_its_log_probabilities_are_the_trainers(engine, worker, problems):
    asked = problems.train[:16]
    worker.load(engine.folder, "float32")
    prompts = engine.own.tokenizer([p.prompt for p in asked])["input_ids"]
    asked_for = {"samples": 1, "max_tokens": TOKENS, "eos_ids": engine.own.eos_ids}
    answers = [given for _, given in worker.generate([(p, [], 5) for p in prompts], **asked_for, logprobs=True)]
    own = engine.score(asked, [given[0][0] for given in answers])
    theirs = [np.array(given[0][1]) for given in answers]
    assert max(np.abs(a - b).max() for a, b in zip(own, theirs, strict=True)) < 1e-4
    assert k3(np.concatenate(own) - np.concatenate(theirs)) < 1e-8


def test_models_take_turns(models, worker, problems):
    """One process, the right weights every time: each load is checked, and completions follow the model."""
    engines = [VLLMEngine(models[name], worker) for name in ("a", "b", "a")]
    drawn = [ids(engine.generate(problems.train[:8], samples=2, max_tokens=TOKENS, seed=2)) for engine in engines]
    assert drawn[0] == drawn[2] != drawn[1]


def test_stale_weights_stop_it(models, worker, problems, monkeypatch):
    """The worker goes on with the model it has where another was asked for, as a failed load does."""
    VLLMEngine(models["a"], worker).generate(problems.train[:2], samples=1, max_tokens=TOKENS, seed=1)
    stale, ask = VLLMEngine(models["b"], worker), worker.ask
    with monkeypatch.context() as patch:
        patch.setattr(worker, "ask", lambda what, name, *rest: 64 if name == "load" else ask(what, name, *rest))
        with pytest.raises(EngineError) as caught:
            stale.generate(problems.train[:16], samples=2, max_tokens=TOKENS, seed=1)
    assert all(part in str(caught.value) for part in (str(models["b"]), "nats a token", "engine.max_kl = 0.005"))
    assert caught.value.exit_code == 68 and not caught.value.retryable
    assert stale.generate(problems.train[:16], samples=2, max_tokens=TOKENS, seed=1)  # loaded anew, checked, right


def test_prompts_that_do_not_fit(engine, worker, problems):
    room = worker.longest or 64
    with pytest.raises(ConfigError, match=f"vLLM has room for {room}: raise engine.max_model_len"):
        engine.generate(problems.train[:2], samples=1, max_tokens=room, seed=1)


def test_a_model_that_vllm_cannot_run(models, worker, problems):
    with pytest.raises(DataError, match="vLLM cannot generate with .*narrow.*head_dim=16.*engine.kind = transformers"):
        VLLMEngine(models["narrow"], worker).generate(problems.train[:2], samples=1, max_tokens=TOKENS, seed=1)
    healed = VLLMEngine(models["a"], worker)
    assert healed.generate(problems.train[:2], samples=1, max_tokens=TOKENS, seed=1)


def test_adapters_come_merged_with_their_base(models, worker, problems, tmp_path):
    """Under the name of the adapter's folder, and checked like any other: the base alone would be stale weights."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(load_model(models["b"]), LoraConfig(r=4, target_modules="all-linear"))
    torch.manual_seed(0)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.3)
    model.save_pretrained(tmp_path / "adapter")
    load_processor(models["b"]).save_pretrained(tmp_path / "adapter")
    base, adapted = (VLLMEngine(folder, worker) for folder in (models["b"], tmp_path / "adapter"))
    asked = {"samples": 2, "max_tokens": TOKENS, "seed": 2}
    drawn = adapted.generate(problems.train[:16], **asked)
    assert ids(drawn) != ids(base.generate(problems.train[:16], **asked))
