"""The transformers engine: samples share their prompt's prefill and are the tokens that `generate` draws without."""

import pytest
import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from npo_core.engines.base import parts
from npo_core.engines.noise import gumbel
from npo_core.engines.prefill import divide
from npo_core.engines.sampling import Row, Sampling, sample
from npo_core.engines.transformers import TransformersEngine
from npo_core.models.inputs import PromptInputs

TOKENS = 4


@pytest.fixture
def engine(models):
    return TransformersEngine(models["a"])


def plain(engine, problems, samples: int, seed: int) -> list[list[int]]:
    """What `generate` alone says with the same noise, of a row for every sample; with padding after the end."""
    rows = [problem.prompt for problem in problems for _ in range(samples)]
    inputs = engine.tokenizer(rows, return_tensors="pt", padding=True)
    start = inputs.input_ids.shape[1]

    def noisy(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return logits + gumbel(seed, torch.arange(len(ids)), ids.shape[1] - start, logits.shape[1])

    config = GenerationConfig(
        max_new_tokens=TOKENS, eos_token_id=engine.eos_ids, pad_token_id=engine.tokenizer.pad_token_id
    )
    output = engine.model.generate(
        input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, generation_config=config, do_sample=False,
        logits_processor=[noisy],
    )  # fmt: skip
    return output[:, start:].tolist()


@pytest.mark.parametrize("samples", [2, 5])
def test_the_tokens_are_those_of_generate_alone(engine, problems, samples):
    asked = problems.train[:40]
    answers = engine.generate(asked, samples=samples, max_tokens=TOKENS, seed=3)
    drawn = [c.token_ids for given in answers for c in given]
    assert len({len(ids) for ids in drawn}) > 2  # rows left the batch
    expected = plain(engine, asked, samples, seed=3)
    assert [row[: len(ids)] for row, ids in zip(expected, drawn, strict=True)] == drawn


def test_a_prompt_goes_through_the_model_once(engine, problems, monkeypatch):
    seen, forward = [], engine.model.forward

    def watch(*args, **kwargs):
        seen.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine.model, "forward", watch)
    engine.generate(problems.train[:6], samples=4, max_tokens=2, seed=0)
    tokens = len(engine.tokenizer(problems.train[0].prompt)["input_ids"])
    assert seen == [(6, tokens), (24, 1)]


def test_the_size_of_a_batch_changes_no_token(models, engine, problems):
    """Not even where it cuts through a prompt's samples."""
    small = TransformersEngine(models["a"], batch=5)
    asked = {"samples": 3, "max_tokens": TOKENS, "seed": 1}
    assert small.generate(problems.train[:4], **asked) == engine.generate(problems.train[:4], **asked)


def test_left_padding_is_shared_too(engine):
    prompts = [[5, 6, 7], [4, 5, 6, 7, 8], [9]]
    rows = [Row(prompt, i) for i, prompt in enumerate([2, 0, 0, 1])]

    def read(numbers):
        return [PromptInputs(prompts[number]) for number in numbers]

    sampling = Sampling(7, 6, engine.eos_ids, 0)
    shared, alone = (sample(engine.model, read, rows, sampling, sharded=sharded) for sharded in (False, True))
    for mine, other in zip(shared, alone, strict=True):
        assert mine.token_ids == other.token_ids
        assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        assert mine.entropies == pytest.approx(other.entropies, abs=1e-5)


def test_a_cache_with_windows_is_not_divided(engine):
    assert divide(engine.model)
    config = Qwen2Config(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, use_sliding_window=True, sliding_window=4, max_window_layers=1,
    )  # fmt: skip
    assert not divide(Qwen2ForCausalLM(config))


def test_scores_do_not_need_all_logits_at_once(engine, problems, monkeypatch):
    """Three rows a pass at most; the scores stay, to rounding."""
    asked, completions = problems.train[:8], [[5, 6, 7, 1][:n] for n in (1, 2, 3, 4, 4, 3, 2, 1)]
    whole = engine.score(asked, completions)
    positions, vocabulary = 5, engine.model.config.vocab_size  # the longest completion and the token before it
    monkeypatch.setattr("npo_core.engines.transformers.MOST_LOGITS", 3 * positions * vocabulary)
    passes, forward = [], engine.model.forward

    def watch(*args, **kwargs):
        passes.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine.model, "forward", watch)
    parts = engine.score(asked, completions)
    assert max(passes) <= 3 and sum(passes) == 8
    assert [len(row) for row in parts] == [len(ids) for ids in completions]
    assert all(abs(a - b).max() < 1e-5 for a, b in zip(whole, parts, strict=True))


def test_parts_are_a_batch_at_least_and_eight_until_there_is_much_to_do():
    sizes = {
        (rows, 40): [len(part) for part in parts(rows, 40)] for rows in (0, 1, 40, 41, 320, 321, 2048, 10240, 60000)
    }
    for (rows, batch), found in sizes.items():
        assert sum(found) == rows and all(size == found[0] for size in found[:-1])
        assert all(batch <= size <= 32 * batch for size in found[:-1])
    assert {rows: len(found) for (rows, _), found in sizes.items()} == {
        0: 0, 1: 1, 40: 1, 41: 2, 320: 8, 321: 8, 2048: 8, 10240: 8, 60000: 47,
    }  # fmt: skip
