"""AutoNPO where it may stay: Delta = 0 and a guide from behind, as a whole run, asked and answered."""

from __future__ import annotations

import pytest

from npo_core.control.outcome import replayed_rows
from npo_core.control.recompute import decide_again
from npo_core.control.records import Approval, Decisions
from npo_core.errors import ApprovalNeeded
from npo_core.guidance.cache import GuidanceCache
from npo_core.recipes.counting import count
from npo_core.recipes.local import run_local
from npo_core.recipes.status import status
from npo_core.reporting.decisions import (
    candidates_table,
    decision_png,
    outcome_png,
    outcome_table,
    prices_table,
    verdict,
)
from npo_core.reporting.narrative import commands
from npo_core.reporting.run_data import load
from npo_core.reporting.signals import read_signals, signals_png
from npo_core.stages.prove import prove_replay
from npo_core.stages.workspace import Workspace
from npo_core.timeline.segments import read_outcomes
from tests.recipes.conftest import tiny

RESCUE = {"updates": 8, "window": 4}


@pytest.fixture(scope="module")
def stays(home, tmp_path_factory) -> Workspace:
    """It may not roll back as far as any snapshot lies."""
    changes = {"auto__choice": {"max_delta": 1, "now": True}, "auto__rescue": RESCUE, "auto__max_interventions": 1}
    folder = tmp_path_factory.mktemp("stays")
    run_local("auto-npo", tiny(**changes), str(folder))
    return Workspace(folder)


@pytest.fixture(scope="module")
def behind(home, tmp_path_factory) -> Workspace:
    """Asked, somebody chooses the snapshot four updates behind as the guide."""
    changes = {"auto__approval": "ask", "auto__probe__behind": 2, "auto__rescue": RESCUE, "auto__max_interventions": 1}
    changes["auto__probe__batch"] = 5
    folder = tmp_path_factory.mktemp("behind")
    with pytest.raises(ApprovalNeeded):
        run_local("auto-npo", tiny(**changes, auto__choice__now=True), str(folder))
    workspace = Workspace(folder)
    [asked] = Decisions(workspace.store).all()
    assert {c.delta for c in asked.candidates} == {4, 0, -4}
    assert asked.complaint("other", -8) == "Delta = -8 is no candidate: choose one of 4, 0, -4. "
    Decisions(workspace.store).add_approval(asked.number, Approval(answer="other", delta=-4))
    run_local("auto-npo", workspace.config(), str(folder))
    return workspace


def test_without_a_rollback_the_branch_goes_on(stays):
    assert [branch.name for branch in stays.timeline.branches()] == ["main"]
    [made] = Decisions(stays.store).all()
    assert (made.delta, made.rollback, made.guide, made.step) == (0, None, None, 4)
    assert made.choices == {"signal": 0, "signal_per_price": 0} and made.expected["updates"] == 0
    ends = [(segment.t0, segment.t1) for segment in stays.timeline.path("main")]
    assert ends[:2] == [(0, 4), (4, 12)] and ends[-1][1] == 24
    before, rescue, after = [read_outcomes(stays.store, segment) for segment in stays.timeline.path("main")][:3]
    sources = [set(table["source"].to_pylist()) for table in (before, rescue, after)]
    assert sources == [{""}, {"", "extra-samples"}, {""}]
    result = Decisions(stays.store).result(1)
    assert (result.t0, result.t1, result.abandoned) == (4, 12, None) and result.groups_rescued > 0


def test_a_guide_from_behind_writes_a_cache_of_the_failures(behind):
    rescue = next(segment for segment in behind.timeline.path("main") if segment.t0 == 4)
    cache = GuidanceCache.open(behind.guidance(rescue.cache))
    [guide] = cache.info.guides
    assert (guide.step, guide.id) == (0, behind.timeline.states("main")[0]) and cache.info.prompts_asked > 0
    injected = [row for row in read_outcomes(behind.store, rescue).to_pylist() if row["injected"]]
    assert {row["source"] for row in injected} <= {"cache"}
    assert {row["prompt_id"] for row in injected} <= set(cache.ids())


@pytest.mark.parametrize("kind", ["stays", "behind"])
def test_it_is_told_proven_and_decided_once_more(kind, request):
    workspace = request.getfixturevalue(kind)
    [made] = Decisions(workspace.store).all()
    assert decide_again(workspace.store, workspace.config(), 4, None, {})["same"]
    for segment in workspace.timeline.path("main"):
        assert segment.cache or prove_replay(workspace.uri, segment.id)["equal"]
    assert status(workspace)["finished"]
    if made.delta == 0:
        assert verdict(made) == "stay at step 4 and draw extra samples (Delta = 0)"
    result = Decisions(workspace.store).result(1)
    assert outcome_table(result).rows
    assert len(candidates_table(made).rows) == len(prices_table(made).rows) == len(made.candidates) > 0
    rows = replayed_rows(workspace.timeline, made.answered("decline", None), "main")
    seen = read_signals(workspace, workspace.config().auto.control.trigger)
    for picture in (decision_png(made, []), outcome_png(result, *rows), signals_png(seen)):
        assert picture.startswith(b"\x89PNG")
    run = load(workspace)
    assert run.total[1] == sum(stage.tokens for stage in run.stages if stage.counted)
    report = workspace.store.read_bytes("report/report.md").decode()
    stayed = "1 decision, 1 intervention. It stayed on branch main and met its failures again from step 4 to step"
    assert "went on to step" in report and stayed in report
    assert commands(run, "OLD", "NEW")[0].startswith("npo run auto-npo")


def test_started_again_nothing_is_done_twice(stays):
    before = stays.store.list("stages")
    run_local("auto-npo", stays.config(), stays.uri)
    assert stays.store.list("stages") == before and len(Decisions(stays.store).all()) == 1


def test_the_probe_of_snapshots_behind_is_counted():
    plain, behind = (
        sum(w.completions for w in count(tiny(auto__probe__behind=number), "auto-npo") if w.stage == "probe")
        for number in (0, 2)
    )
    assert behind == 3 * plain
