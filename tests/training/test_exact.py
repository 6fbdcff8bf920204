"""Exactness through the stages' own functions: a run cut anywhere, and taken up again, is the same run bit for bit."""

from __future__ import annotations

import json
from contextlib import contextmanager, nullcontext
from itertools import pairwise

import pytest
import torch
from safetensors.torch import save_file

from npo_core.config import Injection
from npo_core.errors import DivergedError
from npo_core.seeds import derive_seed, prompt_order
from npo_core.training import exact
from npo_core.training.trainer import NPOTrainer

CASES = {
    # name: (problems, changes to the training, steps, cuts)
    "inside an epoch": ({}, {}, 8, [4]),
    "an epoch ends at the cut": ({"train": 16}, {}, 8, [4]),
    "an epoch ends before and after the cut": ({"train": 12}, {}, 8, [4]),
    "an epoch drops its remainder": ({"train": 22}, {}, 8, [2, 6]),
    "one batch an epoch": ({"train": 8}, {"prompts_per_step": 8}, 6, [2, 4]),
    "two updates, cut between them": ({"train": 12}, {"updates_per_batch": 2, "snapshot_every": 1}, 8, [3]),
    "two updates, cut between them at an epoch's last batch": (
        {"train": 12},
        {"updates_per_batch": 2, "snapshot_every": 1},
        8,
        [5],
    ),
    "two updates, cut at every step": ({"train": 12}, {"updates_per_batch": 2, "snapshot_every": 1}, 8, range(1, 8)),
    "four updates, cut inside the batch": ({"train": 8}, {"updates_per_batch": 4, "snapshot_every": 1}, 10, [3, 6]),
    "accumulated gradients": ({"train": 12}, {"micro_batch": 4}, 8, [4]),
    "accumulated gradients and two updates": (
        {"train": 12},
        {"micro_batch": 4, "updates_per_batch": 2, "snapshot_every": 1},
        8,
        [3],
    ),
    "a schedule with warm-up": ({}, {"lr_schedule": "cosine", "warmup_steps": 3}, 8, [2]),
    "a KL to the base": ({}, {"kl_coef": 0.5}, 8, [4]),
    "a few rows at once": ({"train": 12}, {"generation_batch": 3}, 8, [4]),
    "a few rows at once, cut inside the batch": (
        {"train": 12},
        {"generation_batch": 3, "updates_per_batch": 2, "snapshot_every": 1},
        8,
        [3],
    ),
}


def resumed(bench, until: int, cuts) -> tuple[dict, list, list]:
    """Snapshots, step rows and outcomes of a branch trained in several segments."""
    snapshots, steps, outcomes, start = {}, [], [], None
    for end in [*cuts, until]:
        part = bench.train("in-parts", end, start)
        start = part.end
        snapshots |= part.snapshots
        steps += part.steps
        outcomes += part.outcomes
    return snapshots, steps, outcomes


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_the_same_run(bench, case):
    problems, changes, until, cuts = CASES[case]
    ground = bench(problems, steps=until, **changes)
    whole = ground.train("whole", until)
    snapshots, steps, outcomes = resumed(ground, until, cuts)
    assert [row["step"] for row in whole.steps] == list(range(1, until + 1))
    assert steps == whole.steps
    assert outcomes == whole.outcomes
    assert snapshots == whole.snapshots
    weights = [ground.workspace.timeline.snapshots.get(id_).content["weights"] for id_ in whole.snapshots.values()]
    assert all(before != after for before, after in pairwise(weights))  # there was something to get wrong


@pytest.mark.parametrize("scheme", ["off", "guide"])
def test_a_guided_run_cut_inside_a_batch_is_the_same_run(bench, scheme):
    """The second update after the cut has to find the guide's rows, log-probabilities and advantages again."""
    ground = bench({"train": 12}, steps=8, updates_per_batch=2, snapshot_every=1)
    scout = ground.train("scout", 8)
    cache = ground.guide([scout.end], scout.id, samples=32).cache
    settings = {"cache": cache, "injection": Injection(tau_gate=1.0, importance_sampling=scheme)}
    whole = ground.train("whole", 8, **settings)
    assert sum(row["groups_injected"] or 0 for row in whole.steps) > 2
    assert [row["guide_kl"] is not None for row in whole.steps].count(True) > 2
    first = ground.train("in-parts", 3, **settings)
    second = ground.train("in-parts", 8, first.end, **settings)
    assert first.steps + second.steps == whole.steps
    assert first.outcomes + second.outcomes == whole.outcomes
    assert first.snapshots | second.snapshots == whole.snapshots


def test_the_schemes_and_the_guidance_make_a_difference(bench):
    ground = bench({"train": 12}, steps=4)
    scout = ground.train("scout", 4)
    cache = ground.guide([scout.end], scout.id, samples=32).cache
    ends = {scout.end}
    for scheme in ("off", "guide"):
        injection = Injection(tau_gate=1.0, importance_sampling=scheme)
        ends.add(ground.train(scheme, 4, cache=cache, injection=injection).end)
    assert len(ends) == 3


def test_a_rollback_and_a_replay_are_the_same_run(bench):
    ground = bench({"train": 12})
    scout = ground.train("scout", 8)
    replay = ground.train("replay", 8)
    assert replay.id != scout.id
    assert (replay.snapshots, replay.steps, replay.outcomes) == (scout.snapshots, scout.steps, scout.outcomes)


def test_an_interrupted_stage_goes_on_in_the_middle_of_a_batch(bench):
    """The same stage again, not a new segment: what is kept of the first try must fit what the second adds."""
    ground = bench({"train": 12}, updates_per_batch=2, snapshot_every=1)
    whole = ground.train("whole", 8)
    with broken_off(6):
        ground.train("again", 8)
    again = ground.segment(ground.run(ground.spec("again", ground.base, 8)))
    assert (again.snapshots, again.steps, again.outcomes) == (whole.snapshots, whole.steps, whole.outcomes)


@contextmanager
def broken_off(call: int):
    """Inside it, training diverges at the `call`-th computation of a loss; afterwards it may be taken up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NPOTrainer, "_compute_loss", nan_at(call))
        with pytest.raises(DivergedError):
            yield


def nan_at(call: int):
    """A loss that is not a number from its `call`-th computation on."""
    original, calls = NPOTrainer._compute_loss, []

    def compute(self, model, inputs):
        calls.append(1)
        return original(self, model, inputs) * (float("nan") if len(calls) >= call else 1.0)

    return compute


def test_the_sampling_seed_changes_tokens_and_not_the_order(bench):
    ground = bench({"train": 12})
    one, other = ground.train("one", 8, sampling_seed=1), ground.train("other", 8, sampling_seed=2)
    assert [o["prompt_id"] for o in one.outcomes] == [o["prompt_id"] for o in other.outcomes]
    assert [o["tokens"] for o in one.outcomes] != [o["tokens"] for o in other.outcomes]
    assert set(one.snapshots.values()).isdisjoint(other.snapshots.values())


@pytest.mark.parametrize("updates", [1, 2])
def test_the_size_of_micro_batches_changes_no_sample(bench, updates):
    """Two batches before weights could differ by rounding: the same tokens for one pass, two and four."""
    first = []
    for size in (16 // updates, 8 // updates, 4 // updates):
        changes = {"micro_batch": size, "updates_per_batch": updates, "learning_rate": 1e-9}
        ground = bench({"train": 12}, name=f"micro-{size}", **changes)
        first.append([(o["prompt_id"], o["tokens"]) for o in ground.train("main", 2 * updates).outcomes])
    assert len(first[0]) == 8
    assert first[0] == first[1] == first[2]


def test_the_seed_changes_the_order(bench):
    ground = bench()
    one, other = ground.train("one", 4, seed=1), ground.train("other", 4, seed=2)
    assert [o["prompt_id"] for o in one.outcomes] != [o["prompt_id"] for o in other.outcomes]


@pytest.mark.parametrize("updates", [1, 2])
def test_prompts_come_in_the_order_that_prompt_order_says(bench, updates):
    """Three epochs of two batches; each permutes anew and each drops two of ten problems."""
    from npo_core.problems.load import load_problems

    ground = bench({"train": 10}, steps=6 * updates, updates_per_batch=updates)
    trained = ground.train("main", 6 * updates)
    ids = [problem.id for problem in load_problems(ground.problems).train]
    expected = [[ids[i] for i in prompt_order(10, 3, epoch)[:8]] for epoch in range(3)]
    assert [o["prompt_id"] for o in trained.outcomes] == sum(expected, [])
    assert expected[0] != expected[1] != expected[2]
    steps = [o["step"] for o in trained.outcomes]
    assert steps == [1 + updates * batch for batch in range(6) for _ in range(4)]


def test_sampler_and_prompt_order_agree():
    for epoch in (0, 1, 7):
        sampler = exact.EpochSampler(
            data_source=range(11),
            mini_repeat_count=2,
            batch_size=3,
            repeat_count=2,
            shuffle=True,
            seed=9,
            epoch=lambda epoch=epoch: epoch,
        )
        order = prompt_order(11, 9, epoch)[:9]
        expected = [row for start in (0, 3, 6) for _ in range(2) for row in order[start : start + 3] for _ in range(2)]
        assert list(sampler) == expected == list(sampler)


# --- digests -------------------------------------------------------------------------------------------------------


def test_tensor_digest_tells_bits_names_types_and_shapes_apart():
    values = torch.tensor([1.0, 2.0])
    same = exact.tensor_digest({"a": values, "b": torch.zeros(2)})
    assert same == exact.tensor_digest({"b": torch.zeros(2), "a": values.clone()})
    others = [
        {"a": values},
        {"a": values, "c": torch.zeros(2)},
        {"a": values, "b": torch.zeros(2, 1)},
        {"a": values, "b": torch.zeros(2, dtype=torch.int32)},
        {"a": values, "b": torch.tensor([0.0, -0.0])},
        {"a": torch.nextafter(values, torch.tensor(9.0)), "b": torch.zeros(2)},
    ]
    digests = {exact.tensor_digest(other) for other in others}
    assert len(digests) == len(others)
    assert same not in digests


def test_weights_digest_does_not_see_sharding(tmp_path):
    tensors = {"a": torch.arange(4.0), "b": torch.ones(2, 2)}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    save_file(tensors, tmp_path / "one" / "model.safetensors")
    for i, (name, tensor) in enumerate(tensors.items()):
        save_file({name: tensor}, tmp_path / "two" / f"model-{2 - i}.safetensors")
    assert exact.weights_digest(tmp_path / "one") == exact.weights_digest(tmp_path / "two")


def test_state_digest_sees_every_leaf():
    state = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}},
        "param_groups": [{"lr": 0.1, "b": (1, 2)}],
    }
    seen = {exact.state_digest(state)}
    for change in (
        lambda s: s["state"][0].update(step=torch.tensor(4.0)),
        lambda s: s["state"][0].update(exp_avg=torch.zeros(2)),
        lambda s: s["param_groups"][0].update(lr=0.2),
        lambda s: s["param_groups"][0].update(b=(1, 3)),
        lambda s: s["state"].update({1: {}}),
    ):
        change(state)
        seen.add(exact.state_digest(state))
    assert len(seen) == 6


def test_a_checkpoint_keeps_nothing_of_the_machine(bench):
    """Two folders, one content: nothing that a snapshot holds may name a path, a time or a host."""
    one, other = bench(name="one"), bench(name="other")
    ends = [ground.train("main", 4).end for ground in (one, other)]
    assert ends[0] == ends[1]
    folders = [ground.workspace.store.local(f"snapshots/{ends[0]}") for ground in (one, other)]
    names = sorted(path.name for path in folders[0].iterdir())
    assert names == sorted(path.name for path in folders[1].iterdir())
    assert not exact.NOT_KEPT & set(names)
    state = json.loads((folders[0] / "trainer_state.json").read_text())
    assert state["global_step"] == 4
    assert state["log_history"] == []
    for name in names:
        if name != "manifest.json" and not name.endswith((".safetensors", ".pt")):
            text = (folders[0] / name).read_text()
            assert text == (folders[1] / name).read_text()
            assert str(one.workspace.uri) not in text


def test_seeds_of_different_parts_differ():
    seeds = {derive_seed(*parts) for parts in [(1, 23), (12, 3), ("1", 23, 0), (1, 2, 3), ("a",), ("a", "")]}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_in_mixed_precision_a_rollout_casts_weights_once(bench, monkeypatch):
    """What autocast keeps goes when the outermost one ends; the run is that of weights cast for every token."""
    ground, ends, sample = bench(bf16=True), [], NPOTrainer._sample
    clear = torch.clear_autocast_cache

    def counted(self, *args):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "clear_autocast_cache", lambda: (ends.append(1), clear()))
            return sample(self, *args)

    monkeypatch.setattr(NPOTrainer, "_sample", counted)
    once = ground.train("once", 3)
    assert len(ends) == 3
    autocast, around = torch.autocast, {"enabled": False}
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: nullcontext() if k == around else autocast(*a, **k))
    again = ground.train("again", 3)
    assert len(ends) > 3 * 2
    assert once.snapshots == again.snapshots and once.steps == again.steps
