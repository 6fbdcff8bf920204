"""Rows take the places of those that have ended: what each says is what it says alone, and a batch stays full."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from npo_core.engines import prefill
from npo_core.engines.sampling import Row, Sampled, Sampling, sample
from npo_core.engines.transformers import TransformersEngine
from npo_core.models.inputs import PromptInputs, read_prompts
from npo_core.models.load import load_processor
from npo_core.models.tiny import make_tiny
from npo_core.problems import Problem
from npo_core.problems.load import load_problems
from tests.models.conftest import Run

AT_ONCE, MOST, SAMPLES = 6, 24, 4
TEXTS = [
    "1",
    "the second prompt is longer",
    "3?",
    "four of them",
    "a prompt of several more words than any",
    "6",
    "7th",
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Engine and problems by the type of model; of qwen3_vl most problems have pictures."""
    made = {}

    def get(kind: str, bf16: bool = False):
        if (kind, bf16) not in made:
            folder = tmp_path_factory.mktemp(kind)
            make_tiny(kind, folder, ends=0.08)
            if kind == "qwen3_vl":
                loaded = load_problems(Run(folder, folder).problems, processor=load_processor(folder))
                problems = loaded.train + loaded.held_out
                assert {len(problem.images) for problem in problems} == {0, 1, 2}
            else:
                problems = [Problem(str(i), text, "", 0) for i, text in enumerate(TEXTS)]
            made[kind, bf16] = TransformersEngine(folder, bf16=bf16), problems
        return made[kind, bf16]

    return get


def watched(engine: TransformersEngine, problems: list[Problem], monkeypatch, **how) -> SimpleNamespace:
    """What `SAMPLES` of each problem say, rows in each pass, the widest cache, and who was told of what, when."""
    seen = SimpleNamespace(passes=[], widest=0, told=[], read=[])
    forward = engine.model.forward

    def watch(**given):
        begins = given["past_key_values"].get_seq_length() == 0
        output = forward(**given)
        layer = given["past_key_values"].layers[-1]
        assert layer.keys.shape[2] == layer.values.shape[2] == given["past_key_values"].layers[0].keys.shape[2]
        seen.passes.append((begins, *given["input_ids"].shape))
        seen.widest = max(seen.widest, layer.keys.shape[2])
        return output

    def read(numbers: list[int]) -> list[PromptInputs]:
        seen.read.append(numbers)
        return read_prompts(engine.processor, [problems[number] for number in numbers])

    monkeypatch.setattr(engine.model, "forward", watch)
    rows = [Row(i // SAMPLES, 100 + i) for i in range(SAMPLES * len(problems))]
    seen.rows = drawn(engine, read, rows, ended=lambda *told: seen.told.append((len(seen.passes), *told)), **how)
    monkeypatch.setattr(engine.model, "forward", forward)
    return seen


def drawn(engine, read, rows, seed: int = 3, most: int = MOST, **how) -> list[Sampled]:
    sampling = Sampling(seed, most, engine.eos_ids, 0, engine.never_sampled or ())
    with torch.inference_mode(), engine._precision():
        return sample(engine.model, read, rows, sampling, **how)


def one_by_one(engine: TransformersEngine, problems: list[Problem]) -> list[Sampled]:
    """Each row by itself."""
    found = []
    for i in range(SAMPLES * len(problems)):
        [prompt] = read_prompts(engine.processor, [problems[i // SAMPLES]])
        found += drawn(engine, lambda _, prompt=prompt: [prompt], [Row(0, 100 + i)])
    return found


@pytest.mark.parametrize("kind", ["qwen3", "llama", "qwen3_vl"])
def test_a_row_says_what_it_says_alone(models, monkeypatch, kind):
    engine, problems = models(kind)
    assert len(problems) * SAMPLES > 4 * AT_ONCE
    seen = watched(engine, problems, monkeypatch, at_once=AT_ONCE)
    alone = one_by_one(engine, problems)
    lengths = [len(row.token_ids) for row in alone]
    assert max(lengths) == MOST and len(set(lengths)) > 6  # some reach the limit, and ends are spread
    for mine, other in zip(seen.rows, alone, strict=True):
        assert mine.token_ids == other.token_ids
        assert mine.logprobs == pytest.approx(other.logprobs, abs=2e-5)
        assert mine.entropies == pytest.approx(other.entropies, abs=2e-5)


@pytest.mark.parametrize("kind", ["qwen3", "qwen3_vl"])
def test_places_are_filled_and_the_cache_stays_narrow(models, monkeypatch, kind):
    engine, problems = models(kind)
    seen = watched(engine, problems, monkeypatch, at_once=AT_ONCE)
    prompts = [len(prompt.ids) for prompt in read_prompts(engine.processor, problems)]
    lengths, steps = [len(row.token_ids) for row in seen.rows], [rows for begins, rows, _ in seen.passes if not begins]
    assert max(steps) == AT_ONCE and seen.widest <= max(prompts) + MOST
    # Until none waits the model always has more rows than the share at which some leave.
    last = max(i for i, (begins, *_) in enumerate(seen.passes) if begins)
    assert {rows for begins, rows, _ in seen.passes[:last] if not begins} == {AT_ONCE}
    batches = [lengths[at : at + AT_ONCE] for at in range(0, len(lengths), AT_ONCE)]
    assert len(steps) < 0.8 * sum(max(batch) - 1 for batch in batches)
    # Prompts are read when their rows come in, each once for those that come together.
    assert len(seen.read) > 4 and all(len(set(numbers)) == len(numbers) for numbers in seen.read)
    joined = [(rows, width) for begins, rows, width in seen.passes if begins]
    assert joined == [(len(numbers), max(prompts[number] for number in numbers)) for numbers in seen.read]


def test_who_wants_to_know_is_told_of_each_row_once_and_early(models, monkeypatch):
    engine, problems = models("qwen3")
    seen = watched(engine, problems, monkeypatch, at_once=AT_ONCE)
    told = [(place, ids) for _, places, found in seen.told for place, ids in zip(places, found, strict=True)]
    assert sorted(place for place, _ in told) == list(range(len(seen.rows)))
    assert all(ids == seen.rows[place].token_ids for place, ids in told)
    assert len(seen.told) > 5 and seen.told[0][0] < len(seen.passes) / 4


def test_rows_that_fit_at_once_are_computed_as_without_a_limit(models, monkeypatch):
    engine, problems = models("qwen3")
    rows = SAMPLES * len(problems)
    monkeypatch.setattr("npo_core.engines.sampling.Running.narrow", lambda self: pytest.fail("nothing joins"))
    free, bound = (watched(engine, problems, monkeypatch, at_once=number) for number in (None, rows))
    assert free == bound and len(free.read) == 1


def test_further_rows_come_when_places_are_free(models):
    """They are asked for when too few wait, and have the noise of their numbers."""
    engine, problems = models("qwen3")
    prompts = read_prompts(engine.processor, problems)
    every = [Row(i // SAMPLES, 100 + i) for i in range(SAMPLES * len(problems))]
    waiting, ended = every[AT_ONCE:], []

    def more(running: int) -> list[Row]:
        """As many as have ended since, as if each called for another."""
        found = [waiting.pop(0) for _ in range(min(len(ended), len(waiting)))]
        ended.clear()
        return found

    def read(numbers):
        return [prompts[number] for number in numbers]

    how = {"at_once": AT_ONCE, "ended": lambda places, _: ended.extend(places)}
    found = drawn(engine, read, every[:AT_ONCE], more=more, **how)
    assert [row.token_ids for row in found] == [row.token_ids for row in drawn(engine, read, every)]


@pytest.mark.parametrize("kind", ["qwen3", "qwen3_vl"])
def test_in_bfloat16_the_cache_stays_narrow_and_what_is_recorded_is_the_models(models, monkeypatch, kind):
    engine, problems = models(kind, bf16=True)
    formats, join = set(), prefill.join

    def watch(cache, other):
        join(cache, other)
        formats.update(tensor.dtype for layer in cache.layers for tensor in (layer.keys, layer.values))

    monkeypatch.setattr("npo_core.engines.sampling.join", watch)
    one, two = (watched(engine, problems, monkeypatch, at_once=AT_ONCE).rows for _ in range(2))
    assert one == two and formats == {torch.bfloat16}
    scored = engine.score(
        [problems[i // SAMPLES] for i in range(len(one))], [row.token_ids for row in one], as_sampled=True
    )
    distances = torch.tensor(
        [abs(sum(row.logprobs) - logps.sum()) / len(logps) for row, logps in zip(one, scored, strict=True)]
    )
    assert distances.max() < 0.02


def test_a_cache_that_does_not_divide_is_sampled_in_batches(models, monkeypatch):
    engine, problems = models("qwen3")
    refilled = watched(engine, problems, monkeypatch, at_once=AT_ONCE)
    monkeypatch.setattr("npo_core.engines.sampling.divide", lambda *_: False)
    batches = watched(engine, problems, monkeypatch, at_once=AT_ONCE)
    assert [row.token_ids for row in batches.rows] == [row.token_ids for row in refilled.rows]
    assert [len(places) for _, places, _ in batches.told] == [6, 6, 6, 6, 4]
    assert len(batches.passes) > len(refilled.passes)
