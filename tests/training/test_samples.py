"""Logged completions: what was trained on, in any number of processes and after any end, and never learned from."""

from __future__ import annotations

import math

import pytest

from npo_core.config import parse_config
from npo_core.errors import ConfigError
from npo_core.stages.workspace import Workspace
from npo_core.timeline.segments import read_completions
from npo_core.training import samples
from tests.training.test_exact import broken_off
from tests.training.test_mixed_runs import STEPS, settings
from tests.training.test_shared_batches import TWO

ALL = 99  # more groups than a batch has


def completions(ground, segment) -> list[dict]:
    store, record = ground.workspace.store, ground.workspace.timeline.segment(segment.id)
    return read_completions(store, record).to_pylist()


def same(one: list[dict], two: list[dict]) -> None:
    """Equal texts and verdicts; advantages within rounding, NaN equal to NaN."""
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        numbers = ("pass_rate", "reward", "advantage")
        assert {k: v for k, v in a.items() if k not in numbers} == {k: v for k, v in b.items() if k not in numbers}
        assert [a[k] for k in numbers] == pytest.approx([b[k] for k in numbers], abs=1e-5, nan_ok=True)


def test_logging_decides_nothing(bench, train_settings):
    """Neither the fingerprint of a stage, nor what is written of a configuration, nor any bit of what is learned."""
    ground, chosen = bench({"train": 12}), settings("pool-rescue-replay-8")
    logged = train_settings(log_completions=2)
    specs = [ground.spec("main", ground.base, STEPS, training=t, **chosen) for t in (ground.training, logged)]
    assert specs[0].fingerprint == specs[1].fingerprint
    assert "log_completions" not in specs[0].model_dump_json() and "log_completions" in specs[1].model_dump_json()
    quiet = ground.train("quiet", STEPS, **chosen)
    told = ground.train("told", STEPS, training=logged, **chosen)
    assert (told.snapshots, told.steps, told.outcomes) == (quiet.snapshots, quiet.steps, quiet.outcomes)
    assert completions(ground, quiet) == [] and completions(ground, told)
    files = [ground.workspace.store.list(f"segments/{segment.id}") for segment in (quiet, told)]
    assert set(files[1]) - set(files[0]) == {f"completions-{step:06d}.parquet" for step in told.snapshots}


def test_a_run_may_begin_to_log_and_stop_again(tmp_path):
    quiet, workspace = parse_config({}), Workspace(tmp_path)
    assert workspace.bind(quiet) is None
    workspace.timeline.store.write_json("segments/s/mark-000002.json", {})  # something was trained
    assert workspace.require_same(parse_config({"training": {"log_completions": 4}})) is None
    with pytest.raises(ConfigError, match="training.steps"):
        workspace.require_same(parse_config({"training": {"log_completions": 4, "steps": 20}}))


@pytest.mark.parametrize("method", ["pool-rescue-replay-8", "appended", "dapo-dynamic-sampling"])
def test_samples_are_what_was_trained_on(bench, method):
    """Three groups of four, of which two processes share the second."""
    ground = bench({"train": 12}, steps=STEPS, prompts_per_step=3, log_completions=ALL)
    one = ground.train("one", STEPS, **settings(method))
    rows = completions(ground, one)
    outcomes = {(o["step"], o["prompt_id"]): o for o in one.outcomes}
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["step"], row["group"]), []).append(row)
    in_batch = {key: group for key, group in groups.items() if group[0]["kind"] != "replayed"}
    assert len(in_batch) == len(one.outcomes)
    for group in in_batch.values():
        outcome = outcomes[group[0]["step"], group[0]["prompt_id"]]
        assert group[0]["pass_rate"] == outcome["pass_rate"]
        assert {row["source"] for row in group if row["kind"] == "injected"} == {outcome["source"]} - {""}
        own = [row for row in group if row["kind"] == "policy"]
        assert all((row["verdict"] == "correct") == (row["reward"] == 1) for row in group)
        if not outcome["injected"] or len(own) == 4:
            assert sum(row["reward"] for row in own) / 4 == outcome["pass_rate"]
        assert math.isclose(sum(row["advantage"] for row in group), 0, abs_tol=1e-4)
        assert all(row["completion"] and row["tokens"] <= 3 for row in group)
    steps = {row["step"]: row for row in one.steps}
    for kind, column in (("injected", "groups_injected"), ("replayed", "rows_replayed")):
        for step in steps:
            found = [row for row in rows if (row["kind"], row["step"]) == (kind, step)]
            assert len(found) == (steps[step][column] or 0)
    two = ground.train("two", STEPS, execution=TWO, **settings(method))
    same(completions(ground, two), rows)


def test_a_run_that_was_cut_off_keeps_what_the_whole_one_does(bench):
    ground = bench({"train": 12}, updates_per_batch=2, snapshot_every=1, log_completions=2)
    chosen = settings("pool-rescue-replay-8")
    whole = ground.train("whole", STEPS, **chosen)
    with broken_off(6):
        ground.train("again", STEPS, **chosen)
    again = ground.segment(ground.run(ground.spec("again", ground.base, STEPS, **chosen)))
    assert again.snapshots == whole.snapshots
    kept = completions(ground, again)
    assert [str(row) for row in kept] == [str(row) for row in completions(ground, whole)]  # NaN is no equal of itself
    assert {row["step"] for row in kept} == {1, 3, 5, 7}  # two updates a batch
    groups = {(row["step"], row["group"]) for row in kept if row["kind"] != "replayed"}
    assert len(groups) == 2 * 4


def group(rate: float, kind: str = "policy") -> samples.SampledGroup:
    return samples.SampledGroup(rate, [samples.Sample("p", "a prompt", "text", 1, "wrong", 0.0, 0.0, kind)])


def test_rescued_injected_and_failed_groups_are_kept_first():
    groups = [group(1.0), group(0.0), group(0.5, "injected"), group(0.0, "injected"), group(0.5), group(0.0)]
    assert [samples.choose(groups, most) for most in (0, 1, 2, 3, 4, 5, 9)] == [
        [],
        [3],
        [2, 3],
        [1, 2, 3],
        [1, 2, 3, 5],
        [0, 1, 2, 3, 5],
        [0, 1, 2, 3, 4, 5],
    ]
    assert samples.choose([group(math.nan), group(0.0)], 1) == [1]


def test_a_sample_is_bounded_and_can_be_written():
    long = "a" * samples.MOST_CHARACTERS + "b" * 100
    short = samples.shortened(long)
    assert len(short) < len(long) and short.startswith("aaa") and short.endswith("bbb")
    assert "100 characters left out" in short
    assert samples.shortened("half a pair \ud800") == "half a pair ?"
    replayed = [samples.Sample("p", "", "", 1, "correct", 1.0, math.nan, "replayed", "replay")] * 5
    assert len(samples.rows([group(0.0)] * 5, replayed, 2)) == 4
    spoken = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]
    assert samples.spoken(spoken).strip() == "what?" and samples.spoken("plain") == "plain"
