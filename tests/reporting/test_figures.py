"""The figures of a run: what is counted, where curves cross, and how two runs compare."""

import pytest
from small_runs import (
    BASE,
    CONFIG,
    add_cache,
    add_scores,
    add_segment,
    new_workspace,
    snapshot,
    step_row,
)

from npo_core.errors import DamagedError, DataError
from npo_core.reporting.compare import (
    Crossing,
    compare,
    crossed,
    crossed_at,
    first_crossing,
    levels_table,
    scores_table,
    value_at,
)
from npo_core.reporting.costs import StageCost
from npo_core.reporting.records import Metrics
from npo_core.reporting.run_data import CurvePoint, Spent, load
from npo_core.reporting.segment import divided, groups_table
from npo_core.reporting.tables import costs_table, markdown
from npo_core.timeline import Branch
from npo_core.timeline.segments import Mark, write_part


def totals(points):
    return [(p.step, p.updates_total, p.tokens_total) for p in points]


def test_grpo_counts_its_own_updates_and_tokens(grpo):
    run = load(grpo)
    assert (run.kind, run.branch, run.spent, run.guided_until, run.guidance) == ("grpo", "main", Spent(), None, [])
    assert totals(run.points) == [(0, 0, 0), (2, 2, 200), (4, 4, 400), (6, 6, 600), (8, 8, 800)]
    assert run.complete


def test_bootstrap_counts_scout_and_guidance_from_the_start(bootstrap):
    run = load(bootstrap)
    assert (run.kind, run.branch, run.guided_until) == ("early-bootstrap", "replay", 4)
    assert run.spent == Spent(updates=4, tokens_abandoned=400, tokens_guidance=70)
    assert totals(run.points) == [(0, 4, 470), (2, 6, 670), (4, 8, 870), (6, 10, 1070), (8, 12, 1270)]
    assert [p.pass_rate for p in run.points] == [0.2, 0.6, 0.7, 0.85, 0.95]
    assert run.segments == [
        ("scout", 0, 4, False, False),
        ("replay", 0, 4, True, True),
        ("replay", 4, 8, False, True),
    ]
    assert (len(run.steps), [len(piece.steps) for piece in run.abandoned]) == (8, [4])
    (cache,) = run.guidance
    assert (cache["tokens_generated"], cache["coverage"], cache["branch"]) == (70, 0.5, "replay")


def test_the_scout_has_a_curve_of_its_own_where_it_was_evaluated(bootstrap):
    add_scores(bootstrap, "scout", [0.2, 0.5, 0.6])
    (scout,) = load(bootstrap).abandoned
    assert scout.branch == "scout" and totals(scout.points) == [(0, 0, 0), (2, 2, 200), (4, 4, 400)]


def test_branches_of_any_name_have_their_place_by_when_they_were_opened(tmp_path):
    workspace = new_workspace(tmp_path)
    workspace.timeline.add_branch(Branch(name="ahead", parent=BASE, parent_step=0, reason="runs ahead"))
    segment = add_segment(workspace, "ahead", 0, 8)
    workspace.timeline.add_branch(
        Branch(name="again", parent=segment.snapshots[4], parent_step=4, reason="back", guide=[segment.end])
    )
    again = add_segment(workspace, "again", 4, 6) if snapshot("again", 4) == segment.snapshots[4] else None
    run = load(workspace)
    assert (run.kind, run.branch, again) == ("early-bootstrap", "again", None)
    assert run.segments == [("ahead", 0, 4, False, True), ("ahead", 4, 8, False, False)]  # on the way, then left
    assert run.spent == Spent(updates=4, tokens_abandoned=400)


def test_missing_parts_are_fine(tmp_path):
    workspace = new_workspace(tmp_path)
    empty = load(workspace)
    assert (empty.branch, empty.points, len(empty.steps), empty.complete) == (None, [], 0, False)
    workspace.timeline.add_branch(Branch(name="scout", parent=BASE, parent_step=0, reason="scout"))
    add_segment(workspace, "scout", 0, 4)
    alone = load(workspace)
    assert (alone.kind, alone.branch, alone.spent.updates) == ("early-bootstrap", None, 4)
    cache = add_cache(workspace)
    workspace.timeline.add_branch(Branch(name="replay", parent=BASE, parent_step=0, reason="r", cache=cache))
    opened = load(workspace)
    assert opened.spent == Spent(4, 400, 70) and not opened.complete


def test_committed_parts_of_an_unfinished_segment_count(begun):
    workspace = begun()
    content = {"weights": "00"}
    folder = workspace.scratch / "made"
    folder.mkdir()
    start = workspace.timeline.snapshots.add(folder, content=content, step=0, info={})
    workspace.store.write_json(
        "stages/train-half/spec.json", {"branch": "main", "start": start.id, "until": 8, "cache": None}
    )
    write_part(workspace.store, "half", Mark(2, "main2", 1.0), [step_row(1, False), step_row(2, False)], [])
    run = load(workspace)
    assert (run.steps_done, run.steps.tokens, run.complete) == (2, 200, False)


def test_first_crossing_interpolates_on_every_axis_alike(bootstrap, grpo):
    ours, theirs = load(bootstrap).points, load(grpo).points
    crossing = first_crossing(ours, 0.775)  # half way from step 4 to step 6
    assert (crossing.step, crossing.updates_total, crossing.tokens_total) == pytest.approx((5, 9, 970))
    assert (crossed_at(crossing), crossed(crossing, "updates_total")) == ("between steps 4 and 6 (about 5)", "≈ 9")
    assert first_crossing(theirs, 0.8) == Crossing(8, 8, 800, 6, 8)
    assert crossed_at(first_crossing(theirs, 0.8)) == "at step 8"
    assert first_crossing(theirs, 0.81) is None
    assert first_crossing(ours, 0.1) == Crossing(0, 4, 470, 0, 0)  # at once, yet not for nothing
    assert first_crossing([], 0.5) is None


def test_first_crossing_is_the_first_of_a_curve_that_falls_back():
    points = [CurvePoint(s, s, s, rate, 0.0) for s, rate in ((0, 0.2), (2, 0.6), (4, 0.4), (6, 0.8))]
    assert first_crossing(points, 0.5).step == pytest.approx(1.5)


def test_value_at_interpolates_inside_the_curve_only(grpo):
    points = load(grpo).points
    half_way, at_end = value_at(points, "tokens_total", 500), value_at(points, "tokens_total", 800)
    assert (half_way.pass_rate, half_way.measured) == (pytest.approx(0.675), False)
    assert half_way.interval.low < 0.675 < half_way.interval.high
    assert (at_end.pass_rate, at_end.measured, at_end.interval) == (pytest.approx(0.8), True, points[-1].interval)
    assert value_at(points, "step", 9) is None


def test_compare_by_hand(bootstrap, grpo):
    comparison = compare(load(bootstrap), load(grpo))
    assert [row.target for row in comparison.levels] == [0.5, 0.6, 0.7, 0.8, 0.9]
    at_60 = next(row for row in comparison.levels if row.target == 0.6)
    assert at_60.ratios == pytest.approx({"step": 2.0, "updates_total": 4 / 6, "tokens_total": 400 / 670})
    never = comparison.levels[-1]
    assert never.baseline is None and never.ratios == {"step": None, "updates_total": None, "tokens_total": None}
    assert [row.at for row in comparison.scores] == ["step 8", "8 updates in all", "800 generated tokens in all"]
    same_step, same_updates, same_tokens = comparison.scores
    assert same_step.difference.pass_rate == pytest.approx(0.15) and same_step.difference.measured
    low, high = same_step.difference.interval
    assert 0 < low < 0.15 - 0.03 and 0.15 + 0.03 < high < 0.3
    assert same_updates.difference.pass_rate == pytest.approx(0.7 - 0.8)
    assert same_tokens.run.pass_rate == pytest.approx(0.6 + 0.1 * (800 - 670) / 200)
    assert [row[1].startswith("≈ ") for row in scores_table(comparison).rows] == [False, False, True]
    assert comparison.differing_settings == []
    assert "not reached" in markdown(levels_table(comparison))


def test_pass_rates_measured_differently_are_refused(bootstrap, tmp_path):
    other = new_workspace(tmp_path / "other", CONFIG | {"problems": {"kind": "chain", "held_out": 17}})
    other.timeline.add_branch(Branch(name="main", parent=BASE, parent_step=0, reason="GRPO"))
    add_segment(other, "main", 0, 8)
    add_scores(other, "main", [0.2, 0.4], protocol="other")
    with pytest.raises(DataError, match="problems.held_out is 256 here and 17 in the baseline"):
        compare(load(bootstrap), load(other))


def test_other_settings_that_differ_are_told(bootstrap, tmp_path):
    other = new_workspace(tmp_path / "other", CONFIG | {"seed": 3})
    other.timeline.add_branch(Branch(name="main", parent=BASE, parent_step=0, reason="GRPO"))
    add_segment(other, "main", 0, 8)
    add_scores(other, "main", [0.2, 0.4])
    assert compare(load(bootstrap), load(other)).differing_settings == ["seed: 0, baseline 3"]


def test_stage_costs_and_their_sum(bootstrap):
    run = load(bootstrap)
    assert [cost.label for cost in run.stages] == [
        "base model",
        "train scout 0-4",
        "guide from step 4",
        "train replay 0-4 guided",
        "train replay 4-8",
        "evaluate 5 snapshots",
    ]
    assert run.stages[1] == StageCost("train", "train scout 0-4", 1.0, 400, 4, counted=True)
    assert costs_table(run.stages).rows[-1] == ["counted, together", "3.3", "1,270", "12", ""]


def test_groups_are_means_over_quarters(bootstrap):
    rows = groups_table(load(bootstrap)).rows
    assert rows[4] == ["replay 0-1 guided", "0.100", "1.000", "2.0", "0.0", "3.0", "1.0", "0.200"]
    assert rows[-1] == ["replay 7-8", "0.800", "0.125", "2.0", "0.0", "0.0", "0.0", "-"]
    assert divided(60, 300, 4) == [(60, 120), (120, 180), (180, 240), (240, 300)]
    assert divided(0, 2, 4) == [(0, 1), (1, 2)]


def test_means_leave_out_what_does_not_exist():
    assert Metrics({"step": [1, 2], "x": [None, 4.0]}).mean("x") == 4.0
    assert Metrics({"step": [1], "x": [None]}).mean("x") is None


def test_a_damaged_table_is_named(grpo):
    grpo.store.write_bytes("segments/mainfrom0/steps-000004.parquet", b"PAR1 no")
    with pytest.raises(DamagedError, match="steps-000004.parquet"):
        load(grpo)
