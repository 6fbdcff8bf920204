"""Forks: the same run without changes, another with them; what is shared, refused, killed, and made of a fork."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from npo_core.cli.app import app
from npo_core.config import Plateau
from npo_core.errors import ConfigError, DamagedError, DataError
from npo_core.planning import plan_run
from npo_core.recipes.forking import Request, fork_run
from npo_core.recipes.local import run_local
from npo_core.recipes.runs import row
from npo_core.recipes.status import status
from npo_core.reporting.overview import timeline
from npo_core.reporting.run_data import load
from npo_core.stages.prove import prove_replay
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Fork, Leg, read_fork
from tests.flows.conftest import ROOT
from tests.recipes.conftest import tiny
from tests.timeline.conftest import BUCKET

SLOWER = {"training.learning_rate": 1e-5}


def go(request: Request, folder: Path) -> Workspace:
    """Fork and train to the end."""
    workspace = Workspace(fork_run(request, str(folder)))
    run_local("fork", workspace.config(), workspace.uri)
    return workspace


def files(folder: str | Path) -> dict[str, bytes]:
    """Everything that was written; locks and scratch are of whoever works there."""
    found = {p.relative_to(folder).as_posix(): p for p in Path(folder).rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith((".lock", ".scratch"))}


@pytest.fixture(scope="module")
def slower(runs, tmp_path_factory) -> Workspace:
    """Plain GRPO from step 8 with another learning rate; the run before is left as it was."""
    before = files(runs["grpo"].uri)
    made = go(Request(runs["grpo"].uri, 8, SLOWER, "main"), tmp_path_factory.mktemp("forks") / "slower")
    assert files(runs["grpo"].uri) == before
    return made


@pytest.mark.parametrize(
    ("recipe", "step", "branch"),
    [
        ("grpo", 8, "main"),
        ("grpo", 0, "main"),
        ("plateau-breakthrough", 12, None),
        ("early-bootstrap", 4, None),
        ("early-bootstrap", 8, "scout"),
        ("auto-npo", 16, None),
    ],
)
def test_without_changes_it_goes_on_as_the_run_before_bit_for_bit(runs, tmp_path, recipe, step, branch):
    before = runs[recipe].timeline
    made = go(Request(runs[recipe].uri, step, {}, branch), tmp_path / "fork")
    states = before.states(branch or before.final().name)
    found = made.timeline.states(f"fork-{step}")
    assert {at: found[at] for at in states} == states and max(found) == 24
    assert status(made)["finished"] and load(made).complete


def test_with_a_change_it_is_another_run_from_there_on(runs, slower):
    before, after = runs["grpo"].timeline.states("main"), slower.timeline.states("fork-8")
    assert [step for step in before if before[step] != after[step]] == [12, 16, 20, 24]
    config = slower.config()
    assert config.training.learning_rate == 1e-5
    assert config.model_copy(update={"training": tiny().training}) == runs["grpo"].config()
    rates = load(slower).steps["learning_rate"]
    assert rates == [tiny().training.learning_rate] * 8 + [1e-5] * 16


def test_big_files_are_hard_links_and_only_of_the_path(runs, slower):
    shared = [id_ for step, id_ in runs["grpo"].timeline.states("main").items() if step <= 8]
    for id_ in shared:
        for name in os.listdir(slower.store.local(f"snapshots/{id_}")):
            rel = f"snapshots/{id_}/{name}"
            assert slower.store.local(rel).samefile(runs["grpo"].store.local(rel)), rel
    made = [snapshot.id for snapshot in slower.timeline.snapshots.list() if snapshot.step <= 8]
    assert sorted(made) == sorted(shared) and slower.store.list("guidance") == []


def test_where_links_are_refused_files_are_copied(runs, tmp_path, monkeypatch):
    request = Request(runs["early-bootstrap"].uri, 8)
    linked = fork_run(request, str(tmp_path / "linked"))
    link = os.link

    def refuse(file: Path, path: Path) -> None:
        if Path(file).is_relative_to(request.origin):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(file, path)

    monkeypatch.setattr(os, "link", refuse)
    copied = Workspace(fork_run(request, str(tmp_path / "copied")))
    there = {name: data for name, data in files(linked).items() if not name.startswith("stages/")}
    assert there == {name: data for name, data in files(copied.uri).items() if not name.startswith("stages/")}
    manifest = next(copied.store.local("snapshots").glob("*/manifest.json"))
    assert manifest.stat().st_nlink == 1


def test_what_was_shared_counts_as_spent(runs, slower):
    before, data = load(runs["grpo"]), load(slower)
    own = runs["grpo"].timeline.path("main")[0]
    assert data.total[0] == 24 and data.points[0].updates_total == 0 and data.points[-1].updates_total == 24
    tokens = before.steps.until(8).tokens
    assert data.steps.until(8).tokens == tokens > 0
    [first] = [segment for segment in slower.timeline.segments() if segment.branch == "main"]
    assert first.cost["tokens_generated"] == tokens and first.cost["updates"] == 8 and own.cost["updates"] == 24
    assert data.rollbacks == [] and data.spent.tokens == 0


def test_guidance_of_the_path_counts_as_spent(runs, tmp_path):
    made = Workspace(fork_run(Request(runs["early-bootstrap"].uri, 4), str(tmp_path / "fork")))
    [cache] = load(runs["early-bootstrap"]).guidance
    assert load(made).spent.tokens_guidance == cache["tokens_generated"] > 0
    assert "guide from step 12" in [stage["label"] for stage in status(made)["stages"]]


def test_it_says_where_it_was_forked_from(runs, slower):
    origin, snapshot = runs["grpo"].uri, runs["grpo"].timeline.states("main")[8]
    said = f"Forked from {origin} at step 8 of main (snapshot {snapshot}), with training.learning_rate = 1e-05."
    for data in (status(slower), timeline(slower), json.loads(slower.store.read_bytes("report/report.json"))):
        assert data["forked"]["sentence"] == said
        assert (data["forked"]["workspace"], data["forked"]["changes"]) == (origin, SLOWER)
    report = slower.store.read_bytes("report/report.md").decode()
    assert said in report and f"npo fork {origin} --at 8 --branch main --set training.learning_rate=1e-05" in report
    for command in ("status", "timeline"):
        assert "Forked from" in CliRunner().invoke(app, [command, slower.uri]).output
    assert row(slower)["flow"] == "fork" and status(runs["grpo"])["forked"] is None


def test_both_parts_are_proven(slower):
    for segment in slower.timeline.segments():
        assert prove_replay(slower.uri, segment.id, steps=4)["equal"], segment.branch


def test_a_plan_counts_the_rest_of_it(runs, tmp_path):
    made = Workspace(fork_run(Request(runs["early-bootstrap"].uri, 4), str(tmp_path / "fork")))
    stages = plan_run(made.config(), made.uri, "fork").stages
    assert [(stage.label, stage.updates) for stage in stages[:2]] == [
        ("train fork-4 4-12 guided", 8),
        ("train fork-4 12-24", 12),
    ]
    assert [s["label"] for s in status(made)["stages"] if s["state"] == "left"] == [stage.label for stage in stages]


@pytest.mark.parametrize(
    ("step", "changes", "branch", "error", "said"),
    [
        (10, {}, "main", DataError, r"at = 10: branch main of .* no snapshot of this step; choose one of 0, 4, 8, 12"),
        (8, {}, "other", DataError, "There is no branch 'other'"),
        (8, {"problems.train": 64}, None, ConfigError, r"problems\.train = 64, not 96: .*; leave it out, or start"),
        (8, {"model.width": 64}, None, ConfigError, r"model\.width = 64, not 32: .*; leave it out, or start"),
        (8, {"bootstrap.guided": False}, None, ConfigError, r"bootstrap\.guided = False, not True: .* change nothing"),
        (8, {"auto.cooldown": 8}, None, ConfigError, r"auto\.cooldown = 8, not 4: .* change nothing"),
        (8, {"guidance.samples": 2}, None, ConfigError, r"guidance\.samples = 2, not 4: .* change nothing"),
        (8, {"method": "npo-early"}, None, ConfigError, "method = npo-early is for the recipe early-bootstrap"),
        (8, {"method": "luffy"}, None, ConfigError, r"mix\.guide = .*change nothing|there is no such"),
        (8, {"training.stepz": 1}, None, ConfigError, r"training\.stepz: there is no such field"),
        (8, {"training.group_size": 1}, None, ConfigError, r"training\.group_size = 1"),
        (
            20,
            {"training.steps": 20},
            "main",
            ConfigError,
            r"training\.steps = 20 leaves nothing to train",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(runs, tmp_path, step, changes, branch, error, said):
    with pytest.raises(error, match=said):
        fork_run(Request(runs["grpo"].uri, step, changes, branch), str(tmp_path / "fork"))
    assert not (tmp_path / "fork").exists()


def test_a_damaged_snapshot_is_refused_by_name(runs, tmp_path):
    origin = Workspace(shutil.copytree(runs["grpo"].uri, tmp_path / "run"))
    id_ = origin.timeline.states("main")[4]
    (origin.store.local(f"snapshots/{id_}") / "model.safetensors").unlink()
    with pytest.raises(DamagedError, match=f"snapshots/{id_} is damaged .*fork at an earlier step"):
        fork_run(Request(origin.uri, 8, {}, "main"), str(tmp_path / "fork"))
    assert not (tmp_path / "fork").exists()


def test_a_workspace_with_something_else_is_refused(runs, slower, tmp_path):
    origin = runs["grpo"].uri
    for other in (origin, runs["early-bootstrap"].uri):
        with pytest.raises(ConfigError, match=f"workspace = {other}: something else is there already"):
            fork_run(Request(origin, 8, {}, "main"), other)
    with pytest.raises(ConfigError, match="another fork is there .Forked from .* at step 8 of main"):
        fork_run(Request(origin, 8, {}, "main"), slower.uri)
    with pytest.raises(DataError, match="holds no run"):
        fork_run(Request(str(tmp_path / "nothing"), 8), str(tmp_path / "fork"))


def test_the_same_again_is_the_same_fork_even_without_the_run_before(runs, slower, tmp_path):
    before = files(slower.uri)
    go(Request(runs["grpo"].uri, 8, SLOWER, "main"), Path(slower.uri))
    assert files(slower.uri) == before
    origin = shutil.copytree(runs["grpo"].uri, tmp_path / "gone")
    made = fork_run(Request(str(origin), 8), str(tmp_path / "fork"))
    shutil.rmtree(origin)
    assert fork_run(Request(str(origin), 8), made) == made
    run_local("fork", Workspace(made).config(), made)
    assert status(Workspace(made))["finished"]


KILLED = """
import os, signal, sys
from npo_core.recipes.forking import Request, fork_run
from npo_core.timeline import disk
left = int(sys.argv[3])
sync = disk.sync_folder
def counted(folder):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(folder)
disk.sync_folder = counted
fork_run(Request(sys.argv[1], 8), sys.argv[2])
"""


def test_killed_at_any_moment_and_asked_again_it_is_the_same_fork(runs, tmp_path):
    origin = runs["early-bootstrap"].uri
    whole = files(fork_run(Request(origin, 8), str(tmp_path / "whole")))
    place = str(tmp_path / "killed")
    for moment in (1, 4, 8, 10, 12):  # writes to the disk after which it is killed, each time on top of the last
        command = [sys.executable, "-c", KILLED, origin, place, str(moment)]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not (tmp_path / "killed/config.json").exists()
    found = files(fork_run(Request(origin, 8), place))
    assert set(found) == set(whole)
    differ = {name for name in whole if found[name].replace(b"/killed", b"/whole") != whole[name]}
    assert differ == set()


def test_a_fork_lies_in_s3_and_its_fork_on_a_disk_again(runs, s3_endpoint, tmp_path):
    far = Workspace(fork_run(Request(runs["early-bootstrap"].uri, 8), f"s3://{BUCKET}/forks/one"))
    further = Workspace(fork_run(Request(far.uri, 8), f"s3://{BUCKET}/forks/two"))
    near = go(Request(further.uri, 4), tmp_path / "near")
    before = runs["early-bootstrap"].timeline
    shared = {step: id_ for step, id_ in before.states("replay").items() if step <= 8}
    assert far.timeline.states("replay") == further.timeline.states("replay") == shared
    found = near.timeline.states("fork-4")
    assert {step: found[step] for step in shared} == shared and max(found) == 24
    assert load(further).spent.tokens_guidance > 0 and status(near)["finished"]


def test_a_run_on_its_way_can_be_forked(runs, tmp_path):
    origin = Workspace(shutil.copytree(runs["auto-npo"].uri, tmp_path / "run"))
    last = origin.timeline.path(origin.timeline.final().name)[-1]
    states = origin.timeline.states(origin.timeline.final().name)
    for rel in (f"segments/{last.id}/segment.json", f"stages/train-{last.id}/result.json"):
        origin.store.remove(rel)
    made = go(Request(origin.uri, 16), tmp_path / "fork")
    assert made.timeline.states("fork-16") == states


def test_a_fork_can_be_forked_and_broken_through(slower, tmp_path):
    twice = go(Request(slower.uri, 16, {"training.steps": 20}), tmp_path / "twice")
    assert [branch.name for branch in twice.timeline.branches()] == ["fork-16", "fork-8", "main"]
    assert twice.timeline.states("fork-16") == {
        step: id_ for step, id_ in slower.timeline.states("fork-8").items() if step <= 20
    }
    config = twice.config()
    run_local("plateau-breakthrough", config, twice.uri, plateau=Plateau(rollback_step=12, guide_step=20))
    assert load(twice).kind == "plateau-breakthrough" and [r.step for r in load(twice).rollbacks] == [12]
    with pytest.raises(ConfigError, match="was forked at step 16 .* and grpo begins at the base"):
        run_local("grpo", config, twice.uri)


def test_a_run_that_was_not_forked_is_no_fork(runs):
    with pytest.raises(DataError, match="was not forked from a run"):
        run_local("fork", runs["early-bootstrap"].config(), runs["early-bootstrap"].uri)


def test_the_command_forks_and_names_its_workspace(runs, home, monkeypatch):
    monkeypatch.setenv("NPO_RUNS", str(home / "runs"))
    sets = ["--set", "evaluation.samples=1", "--set", "training.learning_rate=1e-5"]
    asked = ["fork", runs["grpo"].uri, "--at", "20", "--branch", "main", *sets, "--local"]
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["kind"] == "fork", done.output
    [place] = (home / "runs").glob("grpo-fork-20-*")
    assert read_fork(Workspace(place).store).changes == {"evaluation.samples": 1, **SLOWER}
    refused = CliRunner().invoke(app, [*asked[:3], "10", *asked[4:]])
    assert refused.exit_code == 65 and "at = 10" in refused.stderr


@pytest.mark.parametrize(
    ("legs", "steps", "expected"),
    [
        ([], 24, [(24, None)]),
        ([Leg(until=24)], 24, [(24, None)]),
        ([Leg(until=12, cache="c"), Leg(until=24)], 24, [(12, "c"), (24, None)]),
        ([Leg(until=12, cache="c"), Leg(until=24)], 8, [(8, "c")]),
        ([Leg(until=12, cache="c")], 24, [(12, "c"), (24, None)]),
        ([Leg(until=8), Leg(until=12)], 24, [(24, None)]),
    ],
)
def test_legs_go_on_to_the_end(legs, steps, expected):
    fork = Fork(workspace="w", step=4, snapshot="s", branch="main", last="main", legs=legs)
    assert [(leg.until, leg.cache) for leg in fork.onward(steps)] == expected
