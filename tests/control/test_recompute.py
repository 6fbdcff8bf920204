"""What an intervention brought, and a decision made once more, on a run written by hand."""

import json

import pytest

from npo_core.config import RunConfig, parse_config
from npo_core.control.decide import decide
from npo_core.control.decision import Budget, Decision
from npo_core.control.outcome import compare_branches, replayed_rows
from npo_core.control.path import path_rows
from npo_core.control.probe import ProbeResult
from npo_core.control.recompute import decide_again, recompute
from npo_core.control.records import Decisions
from npo_core.errors import ConfigError, DamagedError, DataError
from npo_core.names import AUTO_NPO
from npo_core.timeline import Branch, Segment, SnapshotRef, Store, Timeline
from npo_core.timeline.segments import STEP_SCHEMA, Mark, write_part

CONFIG = parse_config(
    {
        "training": {"steps": 20, "snapshot_every": 2},
        "bootstrap": {"scout_steps": 2},
        "evaluation": {"every": 2},
        "auto": {
            "control": {"trigger": {"ema": 0.5, "window": 2, "min_gain": 0.2, "min_entropy_drop": 0.1, "warm_up": 0}},
            "probe": {"min_solved": 0.2, "min_prompts": 2},
        },
    }
)
PROBE = {
    "pool": 8,
    "prompts": 4,
    "samples": 2,
    "q": 0.5,
    "tokens": 40,
    "candidates": [
        {"step": 4, "snapshot": "main4", "delta": 6, "prompts": 4, "q": 0.5, "kl": 0.5, "kl_k3": 0.5, "length": 5.0},
        {"step": 8, "snapshot": "main8", "delta": 2, "prompts": 2, "q": 0.25, "kl": 0.25, "kl_k3": 0.25, "length": 5.0},
    ],
}


def train(store: Store, branch: str, t0: int, rates: list[float | None], start: str, injected: float = 0.0) -> None:
    """A segment of one part, whose entropy falls by a tenth of a nat an update."""
    t1, snapshots = t0 + len(rates), {}
    rows = []
    for step, rate in enumerate(rates, t0 + 1):
        entropy = None if rate is None else 2 - 0.1 * step
        row = {"step": step, "pass_rate": rate, "entropy": entropy, "tokens_generated": 10.0}
        rows.append(
            dict.fromkeys(STEP_SCHEMA.names) | row | {"groups_injected": injected, "groups_rescued": injected / 2}
        )
        if step % 2 == 0:
            snapshots[step] = f"{branch}{step}"
    end = snapshots.setdefault(t1, f"{branch}{t1}")
    id_ = f"{branch}-{t0}"
    write_part(store, id_, Mark(t1, end, 0.1), rows, [])
    Timeline(store).add_segment(
        Segment(id=id_, branch=branch, start=start, end=end, t0=t0, t1=t1, snapshots=snapshots, parts=[t1])
    )


@pytest.fixture
def store(tmp_path) -> Store:
    """main 0 to 10 with a plateau, a probe there, and its decision."""
    store = Store(tmp_path)
    timeline = Timeline(store)
    timeline.add_branch(Branch(name="main", parent="base", parent_step=0, reason="AutoNPO"))
    train(store, "main", 0, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5], "base")
    store.write_json("stages/probe-abc/result.json", {"result": {"probe": PROBE}})
    Decisions(store).add(made(store))
    return store


def made(store: Store) -> Decision:
    return decide(
        CONFIG,
        path_rows(Timeline(store), "main", 10),
        ProbeResult.model_validate(PROBE),
        Budget(tokens=10_000, interventions=2),
        number=1,
        flow=AUTO_NPO,
        branch="main",
        at=SnapshotRef(step=10, snapshot="main10"),
        probe_id="abc",
    )


def replay(store: Store, rates: list[float | None]) -> None:
    timeline = Timeline(store)
    timeline.add_branch(Branch(name="replay-1", parent="main4", parent_step=4, reason="decision 1"))
    train(store, "replay-1", 4, rates, "main4", injected=2.0)


def test_the_outcome_compares_the_last_fifth_of_the_same_steps(store):
    replay(store, [0.5, 0.6, 0.6, 0.7, 0.8, 0.9])
    found = compare_branches(Timeline(store), made(store), "replay-1")
    assert (found.t0, found.t1) == (4, 10)
    assert (found.replay.pass_rate, found.abandoned.pass_rate) == (0.9, 0.5)  # a fifth of 6 updates is one
    assert found.difference == pytest.approx(0.4)
    assert found.replay.entropy == found.abandoned.entropy == pytest.approx(1.0)
    assert (found.groups_injected, found.groups_rescued) == (12, 6)


def test_a_replay_that_ran_out_of_tokens_is_compared_over_its_own_steps(store):
    replay(store, [0.5, 0.6])
    found = compare_branches(Timeline(store), made(store), "replay-1")
    assert (found.t0, found.t1, found.replay.pass_rate, found.abandoned.pass_rate) == (4, 6, 0.6, 0.5)
    assert [[row["step"] for row in rows] for rows in replayed_rows(Timeline(store), made(store), "replay-1")] == [
        [5, 6]
    ] * 2


def test_a_rescue_is_what_became_of_its_own_updates(store):
    stay = made(store).model_copy(update={"delta": 0, "rollback": None})
    train(store, "main", 10, [0.4, 0.6], "main10", injected=3.0)
    train(store, "main", 12, [0.1, 0.1], "main12")
    found = compare_branches(Timeline(store), stay, "main")
    assert (found.t0, found.t1, found.replay.pass_rate) == (10, 12, 0.6)
    assert (found.abandoned, found.difference, found.groups_injected, found.groups_rescued) == (None, None, 6, 3)
    assert [row["step"] for row in replayed_rows(Timeline(store), stay, "main")[0]] == [11, 12]


def test_a_decision_of_before_prices_is_made_once_more(store):
    record = store.read_json("decisions/0001.json")
    del record["choices"]
    for found in record["candidates"]:
        for name in ("rescued", "price", "per_price", "solved"):
            del found[name]
    record["expected"]["tokens"] = 500.0  # at most, then
    store.write_json("decisions/0001.json", record)
    assert decide_again(store, CONFIG, 10, None, {})["same"]
    record["candidates"][0]["q"] = 0.75
    store.write_json("decisions/0001.json", record)
    assert [d["field"] for d in decide_again(store, CONFIG, 10, None, {})["differences"]] == ["candidates.0.q"]


def test_updates_without_generation_do_not_count(store):
    replay(store, [0.5, None, 0.6, None, 0.8, None])
    found = compare_branches(Timeline(store), made(store), "replay-1")
    assert found.replay.pass_rate == 0.8 and found.replay.entropy == pytest.approx(1.1)


def see(store: Store, step: int = 10, number: int | None = None, config: RunConfig = CONFIG, **changes) -> dict:
    return decide_again(
        store, config, step, number, {name.replace("__", "."): value for name, value in changes.items()}
    )


def test_a_recorded_decision_is_made_once_more_from_its_records(store):
    replay(store, [0.9] * 6)  # what came later changes nothing
    found = see(store)
    assert found["same"] and found["differences"] == [] and found["recomputed"] == found["recorded"]
    assert found["recorded"]["delta"] == 6 and found["approval"] is found["outcome"] is None
    json.dumps(found)


@pytest.mark.parametrize(
    ("changes", "delta", "said"),
    [
        ({"auto.choice.kl_scale": 4.0}, 2, "Delta = 2 has the largest S"),
        ({"auto.choice.kl_form": "sequence"}, 2, "Delta = 2 has the largest S"),
        ({"auto.choice.max_delta": 4}, 2, "Of 1 candidates"),
        ({"auto.probe.min_solved": 0.6}, None, "less than probe.min_solved = 0.6"),
        ({"auto.probe.min_prompts": 5}, None, "No snapshot can be rolled back to"),
        ({"auto.control.trigger.min_gain": 0.0}, None, "No warning"),
        ({"auto.control.trigger.warm_up": 11}, None, "within the warm-up of 11"),
    ],
)
def test_other_thresholds_would_have_decided_otherwise(store, changes, delta, said):
    found = decide_again(store, CONFIG, 10, None, changes)
    assert not found["same"] and found["recomputed"]["delta"] == delta and said in found["recomputed"]["reason"]
    assert found["recorded"]["delta"] == 6


def test_the_other_rule_and_delta_zero_are_weighed_afterwards(store):
    changes = {"auto.choice.now": True, "auto.choice.rule": "signal_per_price"}
    now = PROBE["candidates"][0] | {"step": 10, "snapshot": "main10", "delta": 0, "kl": 0.0}
    store.write_json("stages/probe-abc/result.json", {"result": {"probe": PROBE | {"now": now}}})
    found = decide_again(store, CONFIG, 10, None, changes)["recomputed"]
    assert [c["delta"] for c in found["candidates"]] == [6, 2, 0]
    best = max(found["candidates"], key=lambda c: c["per_price"])
    assert found["delta"] == found["choices"]["signal_per_price"] == best["delta"]


@pytest.mark.parametrize(
    "name", ["auto.probe.samples", "auto.control.pool.size", "training.steps", "plateau.until", "x"]
)
def test_what_decided_what_was_generated_cannot_be_changed(store, name):
    with pytest.raises(ConfigError, match=f"{name} is no threshold"):
        decide_again(store, CONFIG, 10, None, {name: 1})


def test_a_wrong_value_or_field_is_named(store):
    with pytest.raises(ConfigError, match=r"auto\.control\.trigger\.window = 0"):
        decide_again(store, CONFIG, 10, None, {"auto.control.trigger.window": 0})
    with pytest.raises(ConfigError, match=r"auto\.choice\.klscale: there is no such field"):
        decide_again(store, CONFIG, 10, None, {"auto.choice.klscale": 1})


def tamper_with_the_record(store):
    record = store.read_json("decisions/0001.json") | {"delta": 2}
    store.write_json("decisions/0001.json", record)
    return {"delta": (2, 6)}


def tamper_with_the_probe(store):
    store.write_json("stages/probe-abc/result.json", {"result": {"probe": PROBE | {"q": 0.25}}})
    return {"pool_q": (0.5, 0.25)}


def tamper_with_the_metrics(store):
    rows = path_rows(Timeline(store), "main", 10)
    rows[-1]["pass_rate"] = 0.25
    write_part(store, "main-0", Mark(10, "main10", 0.1), rows, [])
    return {"signals.window.2.pass_rate": (0.5, 0.25)}


def tamper_with_the_budget(store):
    record = store.read_json("decisions/0001.json")
    store.write_json("decisions/0001.json", record | {"left": record["left"] | {"interventions": 0}})
    said = {"intervene": (True, False), "reason": (record["reason"], "All interventions are used up.")}
    return said | {f"choices.{rule}": (6, None) for rule in ("signal", "signal_per_price")}


@pytest.mark.parametrize(
    "tamper", [tamper_with_the_record, tamper_with_the_probe, tamper_with_the_metrics, tamper_with_the_budget]
)
def test_records_that_were_altered_are_told_by_field(store, tamper):
    expected = tamper(store)
    found = see(store)
    told = {row["field"]: (row["recorded"], row["recomputed"]) for row in found["differences"]}
    assert not found["same"] and expected.items() <= told.items()


def test_another_configuration_differs_in_its_thresholds(store):
    other = CONFIG.model_copy(
        update={
            "auto": CONFIG.auto.model_copy(update={"choice": CONFIG.auto.choice.model_copy(update={"kl_scale": 2.0})})
        }
    )
    fields = {row["field"] for row in see(store, config=other)["differences"]}
    assert {"thresholds.choice.kl_scale", "candidates.0.v", "candidates.0.s"} <= fields and "pool_q" not in fields


def test_a_missing_probe_is_named(store):
    with pytest.raises(DamagedError, match=r"stages/probe-xyz/result\.json is missing"):
        recompute(store, CONFIG, made(store).model_copy(update={"probe": "xyz"}), {})


def test_a_decision_without_a_probe_needs_none(store):
    record = made(store).model_copy(update={"probe": None, "pool_q": None, "candidates": []})
    assert "too few for a probe" in recompute(store, CONFIG, record, {}).reason


def test_where_nothing_was_decided_the_signals_speak(store):
    found = see(store, 9)
    assert found["recorded"] is None and found["recomputed"]["branch"] == "main"
    assert found["recomputed"]["reading"]["step"] == 9 and "nothing was probed here" in found["recomputed"]["reason"]
    assert "fewer updates" in see(store, 1)["recomputed"]["reason"]
    with pytest.raises(DataError, match="No update 11 is recorded in .*: the newest is 10"):
        see(store, 11)
    with pytest.raises(DataError, match="none is"):
        decide_again(Store(store.uri + "/none"), CONFIG, 1, None, {})


def test_several_decisions_at_a_step_need_a_number(store):
    Decisions(store).add(made(store).model_copy(update={"number": 2, "branch": "replay-1"}))
    with pytest.raises(DataError, match="Step 10 has 2 decisions: 1 .* 2 .* Choose one with --number"):
        see(store)
    assert see(store, number=1)["recorded"]["number"] == 1
    with pytest.raises(DataError, match="There is no decision 3 at step 10"):
        see(store, number=3)
