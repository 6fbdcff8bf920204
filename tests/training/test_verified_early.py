"""Verification overlaps generation where the verifier works in processes, and changes nothing of the run."""

from __future__ import annotations

import time

import torch
from transformers import AutoTokenizer

from npo_core.config import Execution
from npo_core.config.verifier import ExactVerifier, FunctionVerifier
from npo_core.problems import ProblemSet
from npo_core.problems.judge import make_judge
from npo_core.training.build import Rewards
from npo_core.training.exact_trainer import ExactTrainer
from tests.training.conftest import judged


def test_answers_are_verified_while_others_are_sampled(base_folder, problem_set, train_settings, tmp_path, monkeypatch):
    """No row takes the place of another before an answer of those that have left was verified."""
    mark, reads, rollout, prompts = tmp_path / "mark", [], ExactTrainer._sample, ExactTrainer._prompts
    monkeypatch.setenv("MARK_FILE", str(mark))
    tokenizer = AutoTokenizer.from_pretrained(base_folder, padding_side="left")

    def run(early: bool) -> tuple[list[dict], list, dict[str, torch.Tensor]]:
        verifier = FunctionVerifier(path="tests.problems.own:marked")
        problems = ProblemSet(problem_set.train, problem_set.held_out, make_judge(verifier, "", Execution()))
        rewards = Rewards(problems, {tokenizer.eos_token_id})
        changes = {"generation_batch": 8, "begin_verifying": rewards.begin if early else None}
        trainer = judged(base_folder, problems, rewards, train_settings(steps=2), tmp_path / "out", **changes)
        trainer.train()
        spent = ("seconds/", "step_time")
        logs = [{k: v for k, v in row.items() if not k.startswith(spent)} for row in trainer.state.log_history[:2]]
        return logs, trainer.outcomes, trainer.model.state_dict()

    def begins(self, *args):
        mark.unlink(missing_ok=True)
        reads.append(0)
        return rollout(self, *args)

    def waiting(self, *args):
        reads[-1] += 1
        deadline = time.monotonic() + 60
        while reads[-1] > 1 and not mark.exists():
            assert time.monotonic() < deadline, "no answer was verified before the next were sampled"
            time.sleep(0.01)
        return prompts(self, *args)

    at_the_end = run(False)
    monkeypatch.setattr(ExactTrainer, "_sample", begins)
    monkeypatch.setattr(ExactTrainer, "_prompts", waiting)
    early = run(True)
    assert len(reads) == 2 and min(reads) > 1 and early[0] == at_the_end[0] and early[1] == at_the_end[1]
    assert all(torch.equal(early[2][name], weights) for name, weights in at_the_end[2].items())
    assert 0 < early[0][0]["reward"] < 1


def test_a_verifier_without_workers_is_asked_once(problem_set):
    """Telling it of answers before would only cost time."""
    assert not Rewards(problem_set, {1}).may_begin
    judge = make_judge(ExactVerifier(), "", Execution())
    assert not Rewards(ProblemSet(problem_set.train, problem_set.held_out, judge), {1}).may_begin
