"""Several processes that share each batch: the run of one process, within rounding."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from npo_core.config import Control, Execution, Injection, Pool, Trigger
from npo_core.control.controller import CONTROLLER_FILE
from npo_core.errors import ConfigError
from npo_core.training import sharded

STEPS = 8
CLOSE = {"rel": 1e-5, "abs": 1e-6}
ONE = Execution(device="cpu", threads=1)
TWO = ONE.model_copy(update={"processes": 2})
SHARDED = TWO.model_copy(update={"sharding": "fsdp2"})
CASES = {
    # name: (problems, changes to the training, execution)
    "accumulated gradients": ({}, {"micro_batch": 4}, TWO),
    "an epoch that ends, a schedule": ({"train": 12}, {"lr_schedule": "cosine", "warmup_steps": 2}, TWO),
    "a KL to the base": ({}, {"kl_coef": 0.5}, TWO),
    "groups that two processes share, the mean of each completion": ({}, {"prompts_per_step": 3, "loss": "grpo"}, TWO),
    "a few rows at once": ({}, {"generation_batch": 3}, TWO),
    "four processes": ({}, {}, TWO.model_copy(update={"processes": 4})),
    "a sharded model": ({}, {"micro_batch": 4, "kl_coef": 0.5}, SHARDED),
}


def folder(ground, snapshot: str):
    return ground.workspace.timeline.snapshots.folder(snapshot, ground.workspace.scratch)


def assert_same(ground, one, several) -> None:
    """Tokens, pass rates and injections are equal; losses, metrics, weights and optimizer are close."""
    assert several.outcomes == one.outcomes
    for a, b in zip(one.steps, several.steps, strict=True):
        known = {name: value for name, value in a.items() if value is not None}
        assert {name: value for name, value in b.items() if value is not None} == pytest.approx(known, **CLOSE)
    for snapshots in zip(one.snapshots.values(), several.snapshots.values(), strict=True):
        old, new = (folder(ground, snapshot) for snapshot in snapshots)
        assert {file.name for file in new.iterdir()} == {file.name for file in old.iterdir()}
        # AdamW divides a gradient of nearly nothing by its own size: its rounding becomes a share of an update.
        torch.testing.assert_close(*(load_file(at / "model.safetensors") for at in (new, old)), rtol=1e-5, atol=1e-5)
        states = (torch.load(at / "optimizer.pt", weights_only=True)["state"] for at in (new, old))
        torch.testing.assert_close(*states, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_several_processes_are_one(bench, case):
    problems, changes, execution = CASES[case]
    ground = bench(problems, **changes)
    one = ground.train("one", STEPS)
    assert len({row["tokens"] for row in one.outcomes}) > STEPS
    assert_same(ground, one, ground.train("several", STEPS, execution=execution))


@pytest.mark.parametrize("scheme", ["off", "guide"])
def test_guidance_is_injected_wherever_a_group_lies(bench, scheme):
    """Of three groups of four, two processes share the second, and its last slot is the other process's."""
    ground = bench({"train": 12}, prompts_per_step=3)
    scout = ground.train("scout", STEPS)
    cache = ground.guide([scout.end], scout.id, samples=8).cache
    settings = {"cache": cache, "injection": Injection(tau_gate=1.0, importance_sampling=scheme)}
    one = ground.train("one", STEPS, **settings)
    assert len({row["groups_injected"] for row in one.steps} - {0}) > 1
    assert all(row["guide_kl"] is not None for row in one.steps if row["groups_injected"])
    assert_same(ground, one, ground.train("several", STEPS, execution=TWO, **settings))


def test_a_watched_run_ends_where_the_first_process_warns(bench):
    ground = bench(steps=12)
    trigger = Trigger(ema=0.5, window=3, min_gain=1.0, min_entropy_drop=-1.0, warm_up=3)  # it warns as soon as it may
    control = Control(trigger=trigger, pool=Pool(max_pass_rate=0.5))
    one = ground.train("one", 12, control=control)
    several = ground.train("several", 12, control=control, execution=TWO)
    assert max(one.snapshots) == 4
    assert_same(ground, one, several)
    pools = [json.loads((folder(ground, run.end) / CONTROLLER_FILE).read_text())["pool"] for run in (one, several)]
    assert pools[0] == pools[1]


def test_any_number_of_processes_goes_on_where_another_stopped(bench):
    ground = bench({"train": 12}, lr_schedule="linear")
    one = ground.train("one", STEPS)
    snapshots, steps, outcomes, start = {}, [], [], None
    for until, execution in zip((2, 4, 6, 8), (ONE, TWO, SHARDED, ONE), strict=True):
        part = ground.train("in-parts", until, start, execution=execution)
        start, snapshots = part.end, snapshots | part.snapshots
        steps, outcomes = steps + part.steps, outcomes + part.outcomes
    assert_same(ground, one, SimpleNamespace(snapshots=snapshots, steps=steps, outcomes=outcomes))


@pytest.mark.parametrize("execution", [TWO, SHARDED], ids=["whole", "sharded"])
def test_a_run_cut_inside_a_batch_is_the_same_run_for_as_many_processes(bench, execution):
    ground = bench({"train": 12}, updates_per_batch=2, snapshot_every=1)
    whole = ground.train("whole", STEPS, execution=execution)
    first = ground.train("in-parts", 3, execution=execution)
    second = ground.train("in-parts", STEPS, first.end, execution=execution)
    assert first.steps + second.steps == whole.steps
    assert first.outcomes + second.outcomes == whole.outcomes
    assert first.snapshots | second.snapshots == whole.snapshots
    with pytest.raises(ConfigError) as caught:
        ground.train("in-parts", 4, first.end)
    for words in (
        "after update 3",
        "2 processes share",
        "execution.processes = 1",
        "a multiple of training.updates_per_batch",
    ):
        assert words in str(caught.value)


def test_adapters_are_not_sharded():
    with pytest.raises(ConfigError, match="set execution.sharding to none"):
        sharded.prepare(SimpleNamespace(model=SimpleNamespace(peft_config={})))
