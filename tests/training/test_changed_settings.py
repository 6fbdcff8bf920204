"""What goes on from a snapshot with other settings has these, though an optimizer's state brings its old ones."""

from __future__ import annotations

import pytest
import torch

from npo_core.training import exact
from tests.training.conftest import training


def rates(part) -> list[float]:
    return [row["learning_rate"] for row in part.steps]


def test_another_learning_rate_holds_from_the_first_update(bench):
    ground = bench()
    before = ground.train("main", 4)
    after = ground.train("main", 8, before.end, training=training(learning_rate=5e-4))
    assert rates(before) == [1e-3] * 4 and rates(after) == [5e-4] * 4


def test_another_schedule_holds_from_the_first_update(bench):
    ground = bench()
    before = ground.train("main", 4)
    linear = training(lr_schedule="linear")
    after = ground.train("main", 8, before.end, training=linear)
    whole = bench(name="linear").train("main", 8, training=linear)
    assert rates(after) == rates(whole)[4:] and len(set(rates(after))) == 4


def test_other_settings_of_the_optimizer_hold(bench):
    """Weight decay and beta2 are kept in the snapshot as this run's, and the weights are others for it."""
    ground = bench()
    start = ground.train("main", 2).end
    changed = training(weight_decay=0.5, adam_beta2=0.9)
    one = ground.train("main", 4, start, training=changed)
    ground.workspace.timeline.add_branch(branch(start))
    same = ground.train("other", 4, start)
    folder = ground.workspace.snapshot_folder(one.end)
    groups = torch.load(folder / "optimizer.pt", weights_only=True)["param_groups"]
    assert groups[0]["weight_decay"] == 0.5 and tuple(groups[0]["betas"]) == (0.9, 0.9)
    contents = [ground.workspace.timeline.snapshots.get(part.end).content["weights"] for part in (one, same)]
    assert contents[0] != contents[1]


def branch(start: str):
    from npo_core.timeline import Branch

    return Branch(name="other", parent=start, parent_step=2, reason="test")


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_equal_settings_change_no_bit(schedule):
    from transformers import get_scheduler

    def make() -> tuple:
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([weight], lr=3e-4, weight_decay=0.1, betas=(0.9, 0.98))
        return weight, optimizer, get_scheduler(schedule, optimizer, num_warmup_steps=1, num_training_steps=9)

    weight, optimizer, scheduler = make()
    for _ in range(4):
        weight.grad = torch.ones(3)
        optimizer.step()
        scheduler.step()
    kept = optimizer.state_dict(), scheduler.state_dict()
    _, optimizer, scheduler = make()
    settings = exact.optimizer_settings(optimizer)
    optimizer.load_state_dict(kept[0])
    scheduler.load_state_dict(kept[1])
    exact.set_optimizer_settings(optimizer, scheduler, settings)
    now = optimizer.state_dict(), scheduler.state_dict()
    assert [exact.state_digest(state) for state in now] == [exact.state_digest(state) for state in kept]
