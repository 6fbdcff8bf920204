"""Rounds of samples in one sequence: each prompt has the samples that it has by rounds, and none waits for a tail."""

from __future__ import annotations

import random
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pytest

from npo_core.engines.rounds import Answered, InRounds
from npo_core.engines.transformers import TransformersEngine
from npo_core.models.tiny import make_tiny
from npo_core.problems import Problem

PROMPTS, ROUND, MOST, TOKENS = 24, 2, 5, 30
PROBLEMS = [Problem(f"p{i}", "abc" * (1 + i % 4) + str(i), "", 0) for i in range(PROMPTS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny("qwen3", folder, ends=0.1)
    return folder


def solved(problem: Problem, ids: list[int]) -> bool:
    """One prompt in five by none of its samples."""
    return int(problem.id[1:]) % 5 > 0 and sum(ids) % 4 == 0


def rounds(engine, monkeypatch, delay=lambda: 0.0, batch: int = 8, by=None) -> SimpleNamespace:
    """Token ids of each problem's samples in order, asked for until one is right; and rows of each pass."""
    seen = SimpleNamespace(drawn={problem.id: [] for problem in PROBLEMS}, passes=[], waves=[], told=0)
    forward = engine.model.forward
    monkeypatch.setattr(
        engine.model, "forward", lambda **given: seen.passes.append(len(given["input_ids"])) or forward(**given)
    )
    monkeypatch.setattr(engine, "batch", batch)
    with ThreadPoolExecutor(1) as pool:

        def judged(answered: Answered) -> list[Problem]:
            time.sleep(delay())
            return [p for p, row in answered if not any(solved(p, completion.token_ids) for completion in row)]

        def told(answered: Answered):
            seen.told += 1
            for problem, row in answered:
                assert len(row) in (ROUND, MOST % ROUND) and all(c.finished for c in row if len(c.token_ids) < TOKENS)
                seen.drawn[problem.id] += [completion.token_ids for completion in row]
            seen.waves.append(sum(len(row) for _, row in answered))
            verdicts: Future[list[Problem]] = pool.submit(judged, answered)
            return verdicts.result

        ask = by or engine.generate_rounds
        ask(PROBLEMS, samples=ROUND, most=MOST, max_tokens=TOKENS, seed=4, told=told)
    monkeypatch.undo()
    return seen


def test_a_prompt_has_the_first_samples_of_all_that_it_may_have(folder, monkeypatch):
    engine = TransformersEngine(folder)
    found = rounds(engine, monkeypatch)
    everything = engine.generate(PROBLEMS, samples=MOST, max_tokens=TOKENS, seed=4)
    numbers = set()
    for problem, given in zip(PROBLEMS, everything, strict=True):
        ids = [completion.token_ids for completion in given]
        first = next((i for i, row in enumerate(ids) if solved(problem, row)), MOST - 1)
        stop = min(first // ROUND * ROUND + ROUND, MOST)  # a round is drawn whole
        assert found.drawn[problem.id] == ids[:stop]
        numbers.add(stop)
    assert numbers == {2, 4, 5}


def test_how_long_verdicts_take_changes_nothing(folder, monkeypatch):
    engine, chance = TransformersEngine(folder), random.Random(0)
    assert rounds(engine, monkeypatch, lambda: 0.02 * chance.random()) == rounds(engine, monkeypatch)


def test_no_round_waits_for_the_tail_of_another(folder, monkeypatch):
    """By rounds as many tokens take far more passes; here only the last rows are fewer than fit."""
    engine = TransformersEngine(folder)
    found = rounds(engine, monkeypatch)
    each = rounds(engine, monkeypatch, by=partial(InRounds.generate_rounds, engine))
    assert sum(map(len, found.drawn.values())) >= 0.8 * sum(map(len, each.drawn.values()))
    assert len(found.passes) < 0.8 * len(each.passes)
    assert found.told > 4


def test_verdicts_are_asked_for_in_waves_of_a_batch(folder, monkeypatch):
    """Of one answer alone a single one that cannot be judged would be all of them."""
    found = rounds(TransformersEngine(folder), monkeypatch)
    assert sum(size < 8 for size in found.waves) <= 2  # the last of all, which nothing goes on beside


def test_a_round_that_fits_at_once_is_one_wave(folder, monkeypatch):
    engine = TransformersEngine(folder)
    found = rounds(engine, monkeypatch, batch=PROMPTS * ROUND)
    assert found.passes[:2] == [PROMPTS, PROMPTS * ROUND] and found.told == 3
    by = partial(InRounds.generate_rounds, engine)
    assert found == rounds(engine, monkeypatch, batch=PROMPTS * ROUND, by=by)
