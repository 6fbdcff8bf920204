"""AutoNPO as people run it: what is decided and carried out, what the budget allows, kills, exactness, approval."""

import copy
import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml

from npo_core.control.controller import read_pool
from npo_core.control.recompute import decide_again
from npo_core.control.records import Decisions
from npo_core.errors import ApprovalNeeded, ConfigError, DataError
from npo_core.stages.workspace import Workspace
from npo_core.timeline.segments import TIMINGS, read_outcomes, read_steps
from tests.flows.conftest import AUTO, ROOT, TINY, artifacts, family, npo, outcome, wait_for


@pytest.fixture(scope="module")
def grpo(local, auto) -> Workspace:
    return local("grpo", Path(auto.uri).parent / "grpo", {})


def decisions(workspace: Workspace) -> list:
    return Decisions(workspace.store).all()


def results(workspace: Workspace, stage: str) -> list[dict]:
    """What the stages of a kind left."""
    names = [name for name in workspace.store.list("stages") if name.startswith(f"{stage}-")]
    return [workspace.store.read_json(f"stages/{name}/result.json")["result"] for name in names]


def spent(workspace: Workspace) -> tuple[float, float]:
    """Updates and generated tokens of everything but evaluations."""
    costs = [r["cost"] for stage in ("train", "probe", "guide") for r in results(workspace, stage)]
    return sum(c.get("updates", 0) for c in costs), sum(c["tokens_generated"] for c in costs)


def updates(workspace: Workspace, branch: str) -> list[dict]:
    """The metrics on the way to a branch's tip, without timings."""
    rows = []
    for stretch in workspace.timeline.stretches(branch):
        table = read_steps(workspace.store, stretch.segment).drop_columns(list(TIMINGS)).to_pylist()
        rows += [row for row in table if stretch.t0 < row["step"] <= stretch.t1]
    return rows


def test_it_intervenes_where_the_signals_warn(auto):
    made = decisions(auto)
    assert [d.number for d in made] == [1, 2] and all(d.intervene and d.flow == "auto-npo" for d in made)
    assert [d.branch for d in made] == ["main", "replay-1"]
    assert made[0].step == 4  # the first snapshot that warns; the window is full at update 4
    assert made[1].step > made[0].step + AUTO["cooldown"]
    assert [b.name for b in sorted(auto.timeline.branches(), key=lambda b: b.order)] == ["main", "replay-1", "replay-2"]
    for number, d in enumerate(made, 1):
        branch = auto.timeline.branch(f"replay-{number}")
        assert (branch.parent, branch.parent_step, branch.guide) == (d.rollback.snapshot, d.rollback.step, [d.snapshot])
        assert d.delta == d.step - d.rollback.step <= AUTO["choice"]["max_delta"]
        best = max((c for c in d.candidates if c.excluded is None), key=lambda c: (c.s, -c.delta))
        assert best.delta == d.delta and d.signals["reading"]["warning"]
        replay = next(s for s in auto.timeline.segments() if s.branch == branch.name and s.t0 == d.rollback.step)
        assert replay.t1 == d.step and replay.cache == branch.cache is not None
        found = Decisions(auto.store).result(number)
        assert (found.t0, found.t1, found.abandoned.branch) == (d.rollback.step, d.step, d.branch)
    final = auto.timeline.final().name
    assert updates(auto, final)[-1]["step"] == TINY["training"]["steps"] and final == "replay-2"


def test_injection_is_for_the_slice_of_the_pool_alone(auto):
    for number, d in enumerate(decisions(auto), 1):
        folder = auto.timeline.snapshots.folder(d.snapshot, auto.scratch)
        pool = {mistake.prompt_id for mistake in read_pool(folder).since(d.rollback.step)}
        [replay] = [s for s in auto.timeline.segments() if s.branch == f"replay-{number}" and s.cache]
        rows = read_outcomes(auto.store, replay).to_pylist()
        injected = {row["prompt_id"] for row in rows if row["injected"]}
        assert injected and injected <= pool and injected < {row["prompt_id"] for row in rows}


def test_every_decision_is_the_same_when_made_once_more(auto):
    for d in decisions(auto):
        found = decide_again(auto.store, auto.config(), d.step, d.number, {})
        assert found["same"] and found["recorded"]["number"] == d.number, found["differences"]


def test_decisions_have_artifacts_that_can_be_judged(auto, environment):
    found = artifacts(environment)
    for number, d in enumerate(decisions(auto), 1):
        text = found[f"auto-decision-{number:04d}"]
        for part in (
            "data:image/png;base64,",
            d.reason,
            "Expected cost",
            "trigger.min_gain",
            "chosen",
            "Branches so far",
        ):
            assert part in text
        assert "data:image/png;base64," in found[f"auto-decision-{number:04d}-outcome"]
        assert all(len(data) < 200_000 for data in found.values() if isinstance(data, str))


def test_a_decision_not_to_intervene_changes_nothing(local, grpo, tmp_path):
    """Segments end at warnings and training goes on: the run is plain GRPO's, update by update."""
    workspace = local("auto-npo", tmp_path / "run", {"auto.probe.min_solved": 1.0})
    made = decisions(workspace)
    assert [d.step for d in made] == [4, 16]  # cooldown 4, doubled after one that declined, so 8 and 12 do not count
    assert not any(d.intervene for d in made) and "less than probe.min_solved = 1.0" in made[0].reason
    assert [b.name for b in workspace.timeline.branches()] == ["main"] and not workspace.store.list("guidance")
    assert updates(workspace, "main") == updates(grpo, "main")


def test_an_unguided_replay_is_the_abandoned_branch_bit_for_bit(local, tmp_path):
    workspace = local("auto-npo", tmp_path / "run", {"auto.guided": False, "auto.max_interventions": 1})
    [made] = decisions(workspace)
    main, replay = (
        {step: id_ for s in workspace.timeline.segments() if s.branch == name for step, id_ in s.produced().items()}
        for name in ("main", "replay-1")
    )
    same = [step for step in main if made.rollback.step < step <= made.step]
    assert same and all(main[step] == replay[step] for step in same)
    found = Decisions(workspace.store).result(1)
    assert found.difference == 0 and found.replay.entropy == found.abandoned.entropy and found.groups_injected == 0
    assert made.expected["tokens"] == sum(row["tokens_generated"] for row in updates(workspace, "main"))


def test_a_budget_of_updates_counts_all_branches(local, tmp_path):
    workspace = local("auto-npo", tmp_path / "run", {"auto.budget_updates": 18})
    assert spent(workspace)[0] == 18
    first, second = decisions(workspace)
    assert (first.left.updates, first.left.interventions) == (14, 2)
    assert second.left.updates == 18 - 4 - first.delta - (second.step - first.step)
    assert second.left.interventions == 1
    assert second.delta is None or second.delta <= second.left.updates


def test_a_budget_of_tokens_counts_everything(local, auto, tmp_path):
    budget = 1800
    assert spent(auto)[1] > 2 * budget
    workspace = local("auto-npo", tmp_path / "run", {"auto.budget_tokens": budget})
    used, rows = spent(workspace)[1], updates(workspace, workspace.timeline.final().name)
    assert (
        budget <= used < budget + max(row["tokens_generated"] for row in rows)
    )  # ends with the update that uses it up
    assert all(d.left.tokens < budget for d in decisions(workspace))
    first, trained = decisions(workspace)[0], sum(row["tokens_generated"] for row in updates(workspace, "main"))
    probed = workspace.store.read_json(f"stages/probe-{first.probe}/result.json")["result"]["cost"]["tokens_generated"]
    assert first.left.tokens == budget - trained - probed and probed > 0


def test_a_probe_that_the_budget_cannot_pay_is_not_made(local, tmp_path):
    most = 16 * 2 * 3
    workspace = local("auto-npo", tmp_path / "run", {"auto.budget_tokens": 450})
    [made] = decisions(workspace)
    assert made.left.tokens < most and made.probe is None and not made.intervene
    assert f"{made.left.tokens} tokens are too few for a probe" in made.reason
    assert results(workspace, "probe") == []


def test_it_may_begin_with_a_scout(local, tmp_path):
    changes = {"auto.bootstrap": "scout", "auto.max_interventions": 1, "auto.budget_updates": 40}
    workspace = local("auto-npo", tmp_path / "run", changes)
    opened = sorted(workspace.timeline.branches(), key=lambda b: b.order)
    assert [b.name for b in opened] == ["scout", "replay", "replay-1"]
    [made] = decisions(workspace)
    assert made.branch == "replay" and made.step > TINY["bootstrap"]["scout_steps"]
    assert made.left.updates == 40 - 24 - (made.step - 12)  # scout and replay are paid
    assert any(m.step <= 12 for m in read_pool(workspace.timeline.snapshots.folder(made.snapshot, tmp_path)).since(0))
    assert spent(workspace)[0] <= 40


def test_a_budget_that_ends_within_the_bootstrap_is_refused_before_anything(start, tmp_path):
    with pytest.raises(ConfigError, match=r"auto\.budget_updates = 23 is less than the 24 updates"):
        start("auto-npo", tmp_path / "run", {"auto.bootstrap": "scout", "auto.budget_updates": 23})
    assert not (tmp_path / "run").exists()


def test_another_intervention_in_between_is_told(local, tmp_path):
    changes = {"auto.approval": "ask", "auto.max_interventions": 1}
    with pytest.raises(ApprovalNeeded):
        local("auto-npo", tmp_path / "run", changes)
    workspace = Workspace(tmp_path / "run")
    record = workspace.store.read_json("decisions/0001.json")
    workspace.store.write_json("decisions/0001.json", record | {"flow": "plateau-breakthrough"})
    with pytest.raises(ConfigError, match="Decision 1 .* was made by plateau-breakthrough"):
        local("auto-npo", tmp_path / "run", changes)


def everything(workspace: Workspace) -> dict:
    """What must not depend on interruptions, with decisions and branches."""
    kept = outcome(workspace.uri)
    for folder in ("decisions", "branches"):
        kept[folder] = {name: workspace.store.read_json(f"{folder}/{name}") for name in workspace.store.list(folder)}
    for record in kept["decisions"].values():
        for candidate in record.get("candidates", []):
            del candidate["price"]["seconds"]  # measured, so no two runs agree on them
    return kept


def test_killed_around_its_decisions_and_started_again_it_is_the_same_run(auto, environment, call, tmp_path):
    workspace, file = tmp_path / "killed", tmp_path / "auto.yaml"
    file.write_text(yaml.safe_dump(copy.deepcopy(TINY) | {"auto": AUTO, "method": "auto-npo"}))
    command = npo("run", "auto-npo", "--config", file, "--workspace", workspace)
    moments = [
        ("stages/probe-*/spec.json", []),
        ("branches/replay-1.json", ["--local"]),
        ("decisions/0002.json", ["--local"]),
    ]
    for pattern, how in moments:
        assert not list(workspace.glob(pattern)), f"{pattern} was there before the run that is to make it"
        process = subprocess.Popen([*command, *how], env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
        wait_for(workspace, pattern, process)
        processes = family(process)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        _, alive = psutil.wait_procs(processes, timeout=60)
        assert not alive, [p.cmdline() for p in alive]
    call(*command[3:])
    assert everything(Workspace(workspace)) == everything(auto)


def test_a_finished_run_started_again_decides_nothing_anew(auto, start):
    before = everything(auto)
    began = time.time()
    start("auto-npo", Path(auto.uri), {})
    assert everything(auto) == before
    assert all(p.stat().st_mtime < began for p in Path(auto.uri).glob("stages/*/result.json"))


def test_asked_first_it_does_what_it_is_told(local, call, tmp_path):
    """Accepted, then with another Delta, then declined; each answer is given in between, from a terminal."""
    workspace, file = tmp_path / "run", tmp_path / "ask.yaml"
    changes = {"auto.approval": "ask", "auto.max_interventions": 3}
    fields = {"auto": AUTO | {"approval": "ask", "max_interventions": 3}, "method": "auto-npo"}
    file.write_text(yaml.safe_dump(copy.deepcopy(TINY) | fields))
    waits = call("run", "auto-npo", "--config", file, "--workspace", workspace, code=76)
    assert f"npo approve {workspace} --accept" in waits.stderr
    kept = Decisions(Workspace(workspace).store)
    first = kept.waiting()
    assert not Workspace(workspace).store.exists("branches/replay-1.json")
    said = call("approve", workspace, "--accept", "--json")
    assert json.loads(said.stdout)["approval"]["answer"] == "accept"
    with pytest.raises(ApprovalNeeded, match="Decision 2"):
        local("auto-npo", workspace, changes)
    assert kept.get(1) == first and kept.result(1).t0 == first.rollback.step

    from npo_core.cli.approve import approve_data

    second = kept.waiting()
    able = [c for c in second.candidates if c.excluded is None]
    other = next(c for c in able if c.delta != second.delta)
    with pytest.raises(DataError, match="Delta = 99 is no candidate: choose one of"):
        approve_data(str(workspace), "other", 99)
    approve_data(str(workspace), "other", other.delta)
    with pytest.raises(ApprovalNeeded, match="Decision 3"):
        local("auto-npo", workspace, changes)
    assert kept.get(2) == second and kept.result(2).t0 == other.step
    assert Workspace(workspace).timeline.branch("replay-2").parent == other.snapshot

    approve_data(str(workspace), "decline", None)
    finished = local("auto-npo", workspace, changes)
    assert kept.result(3) is None and not finished.store.exists("branches/replay-3.json")
    assert finished.timeline.final().name == "replay-2"
    with pytest.raises(DataError, match="No decision of .* waits"):
        approve_data(str(workspace), "accept", None)
    shown = call("decide", workspace, "--at", second.step, "--number", 2)
    assert f"Delta {other.delta} chosen instead" in shown.stdout
