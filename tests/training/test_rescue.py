"""A rescue, AutoNPO's intervention without a rollback: failures come again until they are solved, or Q falls."""

from __future__ import annotations

import json

import pytest

from npo_core.config import AutoNPO, Control, Guidance, Injection, Rescue, RunConfig
from npo_core.control.controller import read_pool
from npo_core.mix import MIX_FILE
from npo_core.mix.rescue import mix_of
from npo_core.timeline import Branch
from tests.training.test_exact import broken_off
from tests.training.test_shared_batches import TWO, assert_same

BEGIN, END = 4, 10
CONTROL = Control()


def settings(least: float = 0.0, **rescue) -> dict:
    """What a rescue by extra samples decides of a training stage; it ends below `least`."""
    run = RunConfig(auto=AutoNPO(rescue=Rescue(**rescue)))
    parts = {"mix": mix_of(run, extra=True), "rescue": (run.auto.rescue, least), "guidance": Guidance()}
    return {"injection": Injection(gate="dead"), "control": CONTROL, "quiet_until": END, **parts}


@pytest.fixture
def ground(bench):
    """A workspace with a watched run of four updates, of 12 prompts in batches of three."""
    made = bench({"train": 12}, steps=END, prompts_per_step=3, snapshot_every=2)
    made.watched = made.train("main", BEGIN, control=CONTROL)
    for name in ("one", "again", "two"):
        branch = Branch(name=name, parent=made.watched.end, parent_step=BEGIN, reason="test")
        made.workspace.timeline.add_branch(branch)
    return made


def test_failures_come_again_and_extra_samples_solve_some(ground):
    pool = read_pool(ground.workspace.snapshot_folder(ground.watched.end)).mistakes
    run = ground.train("one", END, ground.watched.end, **settings(share=0.67))
    asked = [row["prompt_id"] for row in run.outcomes if row["step"] == BEGIN + 1]
    assert set(asked) & set(pool) and run.steps[0]["pool_size"] <= len(pool) + 3
    assert sum(row["prompts_chosen"] for row in run.steps) > 0
    solved, injected = (sum(row[name] or 0 for row in run.steps) for name in ("prompts_rescued", "groups_rescued"))
    assert solved == injected > 0
    assert {row["source"] for row in run.outcomes if row["injected"]} == {"extra-samples"}
    state = json.loads((ground.workspace.snapshot_folder(run.end) / MIX_FILE).read_text())["parts"]
    assert len(state["rescue"]) == END - BEGIN and set(state) == {"rescue", "mistake-pool", "extra-samples"}


def test_it_ends_at_the_first_snapshot_after_q_fell(ground):
    run = ground.run(ground.spec("one", ground.watched.end, END, **settings(1.01, window=1)))
    assert (run.ended, run.step) == ("rescued", BEGIN + 2)
    goes_on = ground.run(ground.spec("again", ground.watched.end, END, **settings(1.01, window=4)))
    assert (goes_on.ended, goes_on.step) == ("rescued", BEGIN + 4)
    whole = ground.run(ground.spec("two", ground.watched.end, END, **settings(0.0, window=1)))
    assert (whole.ended, whole.step) == ("until", END)


def test_cut_anywhere_it_is_the_same_rescue(ground):
    whole = ground.train("one", END, ground.watched.end, **settings())
    again = ground.spec("again", ground.watched.end, END, **settings())
    for call in (3, 3):  # in update 7, and from the snapshot before it in update 9
        with broken_off(call):
            ground.run(again)
    found = ground.segment(ground.run(again))
    assert (found.snapshots, found.steps, found.outcomes) == (whole.snapshots, whole.steps, whole.outcomes)


def test_two_processes_are_one(ground):
    one = ground.train("one", END, ground.watched.end, **settings())
    two = ground.train("two", END, ground.watched.end, execution=TWO, **settings())
    assert_same(ground, one, two)
