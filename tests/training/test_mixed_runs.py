"""Every method that mixes online: cut anywhere it is the same run, in two processes it is the run of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from npo_core.config import Guidance, Injection, Mix
from npo_core.mix import Mixer
from tests.training.test_exact import broken_off
from tests.training.test_shared_batches import TWO, assert_same

METHODS = Path(__file__).parents[2] / "deployments/configs/methods"
STEPS = 8
SMALL = {"exgrpo": {"mix.prompts.0": {"start_above": 0.0}}}  # so that eight updates see everything happen
EXPECTED = {  # what has to have happened in a run of each method; tests/mix has the parts one by one
    "pool-rescue-replay-8": ("prompts_chosen", "rows_replayed", "tokens_extra", "prompts_rescued", "pool_size"),
    "past-replay": ("groups_rescued", "store_size"),
    "exgrpo": ("prompts_chosen", "groups_injected"),
    "dapo-dynamic-sampling": ("tokens_extra",),
    "history": ("prompts_rescued",),
    "rlsd": ("teacher_rows",),
    "appended": ("groups_injected", "guide_kl", "rows_replayed"),
}


def settings(method: str) -> dict:
    """The part of a training stage that a method decides."""
    values = OWN.get(method) or yaml.safe_load((METHODS / f"{method}.yaml").read_text())
    for dotted, changes in SMALL.get(method, {}).items():
        _, part, place = dotted.split(".")
        values["mix"][part][int(place)] |= changes
    mix = Mix.model_validate(values.get("mix", {}))
    return {"injection": Injection(**values.get("injection", {})), "mix": mix, "guidance": Guidance()}


OWN = {  # what no preset has
    "rlsd": {"mix": {"self_teacher": {"sync_every": 2}}},
    "history": {
        "injection": {"gate": "dead"},
        "mix": {"sources": [{"kind": "extra-samples", "chunks": 4, "budget": 8, "choice": "history"}]},
    },
    "appended": {
        "injection": {"place": "append", "importance_sampling": "guide"},
        "mix": {
            "store": {"max_pass_rate": 1, "drop_above": 1},
            "sources": [{"kind": "past-successes"}],
            "replay": {"rows": 3, "ratio": "clip", "max_pass_rate": 1},
        },
    },
}


def happened(steps: list[dict], method: str) -> None:
    for name in EXPECTED[method]:
        assert sum(row[name] or 0 for row in steps) > 0, f"{name}: {[row[name] for row in steps]}"


@pytest.mark.parametrize("method", EXPECTED)
def test_cut_anywhere_it_is_the_same_run(bench, method):
    """Two updates a batch, a snapshot at each, cut inside a batch and between two, in several epochs."""
    ground = bench({"train": 12}, steps=STEPS, updates_per_batch=2, snapshot_every=1, micro_batch=4)
    whole = ground.train("whole", STEPS, **settings(method))
    parts, start, found = {}, None, []
    for end in (3, 6, STEPS):
        part = ground.train("parts", end, start, **settings(method))
        start, parts, found = part.end, parts | part.snapshots, [*found, *part.steps]
    assert found == whole.steps
    assert parts == whole.snapshots


def test_a_try_that_ended_in_the_middle_of_a_batch_is_taken_up(bench):
    """The same stage again: store, pool and counts are those of its newest snapshot."""
    ground = bench({"train": 12}, updates_per_batch=2, snapshot_every=1)
    chosen = settings("pool-rescue-replay-8")
    whole = ground.train("whole", STEPS, **chosen)
    with broken_off(6):
        ground.train("again", STEPS, **chosen)
    again = ground.segment(ground.run(ground.spec("again", ground.base, STEPS, **chosen)))
    assert (again.snapshots, again.steps, again.outcomes) == (whole.snapshots, whole.steps, whole.outcomes)


@pytest.mark.parametrize("method", EXPECTED)
def test_two_processes_are_one(bench, method):
    """Three groups of four, of which two processes share the second."""
    ground = bench({"train": 12}, steps=STEPS, prompts_per_step=3)
    one = ground.train("one", STEPS, **settings(method))
    happened(one.steps, method)
    two = ground.train("two", STEPS, execution=TWO, **settings(method))
    assert_same(ground, one, two)


def test_without_anything_mixed_in_it_is_plain_grpo(bench):
    ground = bench({"train": 12})
    plain, mixed = ground.train("plain", STEPS), ground.train("mixed", STEPS, mix=Mix())
    assert mixed.snapshots == plain.snapshots


def test_rows_beside_change_nothing_else_of_a_batch(bench):
    """With a weight near nothing, replay leaves tokens, verdicts and gradients as they are."""
    ground = bench({"train": 12}, learning_rate=1e-9)
    mix = {"store": {"max_pass_rate": 1, "drop_above": 1}, "replay": {"rows": 4, "weight": 1e-12, "max_pass_rate": 1}}
    plain, mixed = ground.train("plain", 4), ground.train("mixed", 4, mix=Mix(**mix))
    assert [row["rows_replayed"] for row in mixed.steps][-1] > 0
    for name in ("grad_norm", "loss", "pass_rate", "reward"):
        assert [r[name] for r in mixed.steps] == pytest.approx([r[name] for r in plain.steps], rel=1e-4, abs=1e-7)
    assert [o["tokens"] for o in mixed.outcomes] == [o["tokens"] for o in plain.outcomes]


def test_the_source_that_the_page_shows_is_one_class(bench, tmp_path, monkeypatch):
    page = (METHODS.parents[2] / "docs/mix.md").read_text()
    (tmp_path / "shown.py").write_text(page.split("```python")[1].split("```")[0])
    monkeypatch.syspath_prepend(tmp_path)
    ground = bench({"train": 12}, steps=STEPS)
    mix = Mix(sources=[{"kind": "plugin", "path": "shown:Shortest"}])
    run = ground.train("own", STEPS, mix=mix, injection=Injection(tau_gate=1.0), guidance=Guidance())
    assert {row["source"] for row in run.outcomes if row["injected"]} == {"shortest"}


def test_a_plugin_that_cannot_be_made_is_refused_by_name():
    from npo_core.errors import ConfigError

    for path, words in ((f"{__name__}:Missing", "Missing"), (f"{__name__}:STEPS", "cannot be made")):
        with pytest.raises(ConfigError, match=words):
            Mixer(Mix(sources=[{"kind": "plugin", "path": path}]))
    with pytest.raises(ConfigError, match="has no name, find"):
        Mixer(Mix(sources=[{"kind": "plugin", "path": "builtins:dict"}]))
