"""What training keeps when it goes wrong: a sentence that helps, and every snapshot from before."""

from __future__ import annotations

import pytest
import torch

from npo_core.errors import DivergedError
from npo_core.timeline.segments import read_marks
from npo_core.training.recorder import step_row
from npo_core.training.trainer import NPOTrainer


def spoil(monkeypatch, at: int, how) -> None:
    """From the `at`-th computation on, the loss is `how(loss)`."""
    original, calls = NPOTrainer._compute_loss, []

    def compute(self, model, inputs):
        calls.append(1)
        loss = original(self, model, inputs)
        return how(loss) if len(calls) >= at else loss

    monkeypatch.setattr(NPOTrainer, "_compute_loss", compute)


@pytest.mark.parametrize(("at", "kept"), [(1, []), (3, [2]), (4, [2]), (5, [2, 4])])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_ends_training_and_keeps_what_was(bench, monkeypatch, value, at, kept):
    ground = bench(learning_rate=0.0123)
    whole = ground.train("whole", 8)
    with monkeypatch.context() as patch:
        spoil(patch, at, lambda loss: loss * float("nan") if value == "nan" else loss + float("inf"))
        with pytest.raises(DivergedError, match=r"training\.learning_rate \(now 0\.0123\)") as caught:
            ground.train("main", 8)
    assert f"Update {at} " in str(caught.value)
    assert not caught.value.retryable
    spec = ground.spec("main", ground.base, 8)
    marks = read_marks(ground.workspace.store, spec.fingerprint)
    assert [mark.step for mark in marks] == kept
    for mark in marks:
        assert mark.snapshot == whole.snapshots[mark.step]
        ground.workspace.timeline.snapshots.folder(mark.snapshot, ground.workspace.scratch)  # whole, digests checked
    assert not any(s.branch == "main" for s in ground.workspace.timeline.segments())
    assert ground.segment(ground.run(spec)).snapshots == whole.snapshots


def test_a_gradient_that_is_not_finite_ends_training(bench, monkeypatch):
    """A finite loss whose gradient is not: the square root of zero."""
    ground = bench()
    spoil(monkeypatch, 3, lambda loss: loss + torch.sqrt(loss * 0))
    with pytest.raises(DivergedError, match="gradient norm nan"):
        ground.train("main", 8)
    assert len(read_marks(ground.workspace.store, ground.spec("main", ground.base, 8).fingerprint)) == 1


@pytest.mark.parametrize("learning_rate", [1e30, 1e38])
def test_a_learning_rate_that_destroys_the_policy_is_named(bench, learning_rate):
    """Here nothing is injected: the weights overflow, and the next generation has no probabilities to draw from."""
    ground = bench(learning_rate=learning_rate)
    with pytest.raises(DivergedError, match=r"training\.learning_rate"):
        ground.train("main", 8)


def test_rows_name_every_column_and_leave_out_nothing(bench):
    ground = bench()
    rows = ground.train("main", 4).steps
    always = {
        "loss",
        "grad_norm",
        "learning_rate",
        "reward",
        "reward_std",
        "pass_rate",
        "entropy",
        "groups_all_wrong",
        "groups_all_right",
        "groups_injected",
        "groups_rescued",
        "clip_low",
        "clip_high",
        "tokens_generated",
        "completion_length",
    }
    for row in rows:
        assert {name for name in always if row[name] is None} == set()
        assert row["guide_kl"] is row["guide_log_ratio"] is None
        assert row["learning_rate"] == 1e-3
    assert [row["step"] for row in rows] == [1, 2, 3, 4]


def test_update_seconds_leave_out_generation_and_verification():
    row = step_row(3, {"seconds/step": 10.0, "seconds/generate": 6.0, "seconds/verify": 1.0, "loss": 0.5})
    assert (row["seconds_update"], row["seconds_generate"], row["seconds_verify"]) == (3.0, 6.0, 1.0)
    assert row["step"] == 3
    assert row["entropy"] is None
