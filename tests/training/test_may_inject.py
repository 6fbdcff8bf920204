"""What the policy wrote itself is stored and injected only where a guide's could be: no guesses, no second thoughts."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from npo_core.config import Mix
from npo_core.mix import Mixer
from npo_core.problems import Outcome, ProblemSet, Verdict
from npo_core.training.build import Rewards
from npo_core.training.trainer import InjectionSettings
from tests.training.conftest import judged

EVEN = set("02468")
STORE = {"max_pass_rate": 1, "drop_above": 1}


@pytest.fixture
def run(base_folder, problem_set, train_settings, tmp_path):
    """Two updates in which what ends on an even digit is right, and of some problems by a guess; the mixer then."""
    tokenizer = AutoTokenizer.from_pretrained(base_folder, padding_side="left")

    def make(guessed, accept=False, opinion=None, **parts) -> Mixer:
        def judge(completions):
            return [
                Verdict(Outcome.CORRECT, 1.0, 1.0, fallback=c.problem.id in guessed)
                if c.finished and c.text[-1:] in EVEN
                else Verdict(Outcome.WRONG, 0.0, 0.0)
                for c in completions
            ]

        problems = ProblemSet(problem_set.train[:16], problem_set.held_out, judge)
        rewards = Rewards(problems, {tokenizer.eos_token_id}, accept_fallback=accept, opinion=opinion)
        settings = train_settings(steps=2, max_completion_tokens=3, snapshot_every=1000)
        ids = [problem.id for problem in problems.train]
        mixer = Mixer(Mix(store=STORE, **parts), prompt_ids=ids, group_size=4)
        injection = {"may_inject": rewards.may_inject, "injection_settings": InjectionSettings(gate="every")}
        trainer = judged(base_folder, problems, rewards, settings, tmp_path / "out", mixer=mixer, **injection)
        trainer.train()
        return mixer

    return make


@pytest.fixture
def ids(problem_set) -> list[str]:
    return [problem.id for problem in problem_set.train[:16]]


def test_guesses_are_neither_stored_nor_injected_unless_accepted(run, ids):
    parts = {"sources": [{"kind": "past-successes"}, {"kind": "extra-samples"}]}
    assert not run(ids, **parts).store.prompts
    assert run(ids, accept=True, **parts).store.prompts
    assert run([], **parts).store.prompts


def test_the_second_opinion_is_asked_of_right_ones_alone(run, ids):
    asked = []

    def refuse(completions):
        asked.extend(completions)
        return [Verdict(Outcome.WRONG, 0.0, 0.0) for _ in completions]

    assert not run([], opinion=refuse).store.prompts
    assert asked and all(completion.finished for completion in asked)


def test_a_guess_of_the_batch_is_one_whatever_was_judged_since(run, ids):
    """Dynamic sampling draws and judges others before the batch's own are looked at."""
    mixer = run(ids[:8], prompts=[{"kind": "dynamic-sampling", "rounds": 2}])
    assert mixer.store.prompts
    assert not set(mixer.store.prompts) & set(ids[:8])
