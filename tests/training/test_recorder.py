"""Where a segment ends, what a watched one keeps of itself, and what is kept when training goes wrong."""

from __future__ import annotations

import pytest
import torch

from npo_core.config import Control, Pool, Trigger
from npo_core.control.controller import CONTROLLER_FILE, read_pool
from npo_core.control.signals import readings
from npo_core.errors import DivergedError, StorageError
from npo_core.timeline import Branch, Snapshots
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


def test_a_snapshot_that_cannot_be_kept_ends_training_and_is_made_anew(bench, monkeypatch):
    """The disk is full for the second one, beside training; the first stays, and the next try goes on from it."""
    ground = bench()
    whole, original, calls = ground.train("whole", 8), Snapshots.add, []

    def full_once(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise StorageError("No space left on device: free some, and start again.")
        return original(self, *args, **kwargs)

    spec = ground.spec("main", ground.base, 8)
    with monkeypatch.context() as patch:
        patch.setattr(Snapshots, "add", full_once)
        with pytest.raises(StorageError, match="No space left"):
            ground.train("main", 8)
    assert [mark.step for mark in read_marks(ground.workspace.store, spec.fingerprint)] == [2]
    again = ground.segment(ground.run(spec))
    assert (again.snapshots, again.steps) == (whole.snapshots, whole.steps)


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
        "entropy_on_policy",
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
        assert row["entropy_on_policy"] == row["entropy"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]


def test_update_seconds_leave_out_generation_and_verification():
    row = step_row(3, {"seconds/step": 10.0, "seconds/generate": 6.0, "seconds/verify": 1.0, "loss": 0.5})
    assert (row["seconds_update"], row["seconds_generate"], row["seconds_verify"]) == (3.0, 6.0, 1.0)
    assert row["step"] == 3
    assert row["entropy"] is None


# Every reading warns, from the third on, because a pass rate cannot gain 1 and entropy does not double.
TRIGGER = Trigger(ema=0.5, window=2, min_gain=1.0, min_entropy_drop=-1.0, warm_up=0)
WATCHED = Control(trigger=TRIGGER, pool=Pool(max_pass_rate=0.5))


def watched(**trigger) -> Control:
    return WATCHED.model_copy(update={"trigger": TRIGGER.model_copy(update=trigger)})


def ended(ground, segment) -> str:
    return read_marks(ground.workspace.store, segment.id)[-1].ended


def folder(ground, snapshot: str):
    return ground.workspace.timeline.snapshots.folder(snapshot, ground.workspace.scratch)


@pytest.mark.parametrize(
    ("control", "quiet_until", "end", "why"),
    [
        (watched(), 0, 4, "warning"),  # warns from update 3 on, and 4 has a snapshot
        (watched(window=1), 0, 2, "warning"),
        (watched(warm_up=5), 0, 6, "warning"),
        (watched(), 3, 4, "warning"),
        (watched(), 4, 6, "warning"),
        (watched(), 5, 6, "warning"),
        (watched(), 6, 8, "until"),  # the end of the segment is no warning, though it warns there
        (watched(min_gain=-1.0), 0, 8, "until"),
    ],
)
def test_a_segment_ends_at_the_first_snapshot_that_warns(bench, control, quiet_until, end, why):
    ground = bench()
    segment = ground.train("main", 8, control=control, quiet_until=quiet_until)
    assert (max(segment.snapshots), ended(ground, segment)) == (end, why)
    assert [row["step"] for row in segment.steps] == list(range(1, end + 1))
    warned = [r.step for r in readings(segment.steps, control.trigger) if r.warning and r.step > quiet_until]
    assert why == "until" or end - 2 < warned[0] <= end


def test_tokens_that_are_used_up_end_the_segment_with_a_snapshot(bench):
    ground = bench()
    whole = ground.train("whole", 8)
    limit = int(sum(row["tokens_generated"] for row in whole.steps[:3]))
    for name, tokens, end in (("exact", limit, 3), ("one-less", limit - 1, 3), ("one-more", limit + 1, 4)):
        segment = ground.train(name, 8, token_limit=tokens)
        assert (max(segment.snapshots), ended(ground, segment)) == (end, "tokens")
        assert segment.steps == whole.steps[:end]
    assert ended(ground, whole) == "until"
    # Such a snapshot is one like any other: training goes on from it to where the uninterrupted run is.
    first = ground.train("again", 8, token_limit=limit)
    rest = ground.train("again", 8, start=first.end)
    assert {step: rest.snapshots[step] for step in (4, 6, 8)} == {step: whole.snapshots[step] for step in (4, 6, 8)}


def test_an_end_between_snapshots_gets_one(bench):
    ground = bench()
    whole = ground.train("whole", 8)
    first = ground.train("main", 5)
    assert sorted(first.snapshots) == [2, 4, 5] and ended(ground, first) == "until"
    assert ground.train("main", 8, start=first.end).snapshots[8] == whole.snapshots[8]


def test_what_the_controller_knows_is_part_of_the_snapshot(bench):
    ground = bench()
    plain, seen = ground.train("plain", 4), ground.train("seen", 4, control=WATCHED, quiet_until=4)
    assert plain.steps == seen.steps  # watching changes nothing of the training
    contents = [ground.workspace.timeline.snapshots.get(s.end).content for s in (plain, seen)]
    assert contents[1].keys() - contents[0].keys() == {"controller"}
    assert {name: contents[1][name] for name in contents[0]} == contents[0] and plain.end != seen.end
    assert not (folder(ground, plain.end) / CONTROLLER_FILE).exists()
    failed = {row["prompt_id"]: row["step"] for row in seen.outcomes if row["pass_rate"] <= 0.5}
    assert failed and {m.prompt_id: m.step for m in read_pool(folder(ground, seen.end)).since(0)} == failed
    # Another threshold of the pool holds other prompts, and is another snapshot.
    strict = ground.train(
        "strict", 4, control=WATCHED.model_copy(update={"pool": Pool(max_pass_rate=0.0)}), quiet_until=4
    )
    assert strict.end != seen.end


def test_a_watched_run_that_was_interrupted_knows_what_the_uninterrupted_one_does(bench, monkeypatch):
    ground = bench()
    control = watched(window=3, warm_up=7)
    whole = ground.train("whole", 10, control=control)
    assert ended(ground, whole) == "warning" and max(whole.snapshots) == 8
    with monkeypatch.context() as patch:
        spoil(patch, 5, lambda loss: loss * float("nan"))
        with pytest.raises(DivergedError):
            ground.train("main", 10, control=control)
    resumed = ground.segment(ground.run(ground.spec("main", ground.base, 10, control=control)))
    assert (resumed.snapshots, ended(ground, resumed)) == (whole.snapshots, "warning")
    assert resumed.steps == whole.steps


def test_a_token_limit_counts_what_an_interrupted_try_generated(bench, monkeypatch):
    ground = bench()
    whole = ground.train("whole", 8)
    limit = int(sum(row["tokens_generated"] for row in whole.steps[:6]))
    with monkeypatch.context() as patch:
        spoil(patch, 5, lambda loss: loss * float("nan"))
        with pytest.raises(DivergedError):
            ground.train("main", 8, token_limit=limit)
    resumed = ground.segment(ground.run(ground.spec("main", ground.base, 8, token_limit=limit)))
    assert max(resumed.snapshots) == 6 and ended(ground, resumed) == "tokens"


def test_a_rollback_restores_pool_and_averages(bench):
    ground = bench()
    whole = ground.train("whole", 8, control=WATCHED, quiet_until=8)
    at = whole.snapshots[4]
    ground.workspace.timeline.add_branch(Branch(name="replay", parent=at, parent_step=4, reason="rollback"))
    replay = ground.train("replay", 8, start=at, control=WATCHED, quiet_until=8)
    assert replay.snapshots == {step: whole.snapshots[step] for step in (6, 8)}
    assert all(m.step <= 4 for m in read_pool(folder(ground, at)).since(0))
    assert any(m.step > 4 for m in read_pool(folder(ground, replay.end)).since(0))
