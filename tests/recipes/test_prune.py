"""`npo prune`: what nothing needs goes, and nothing else; a run that was pruned is the same run."""

import json
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from npo_core.cli.app import app
from npo_core.config import Plateau
from npo_core.errors import DataError, WorkspaceBusyError
from npo_core.recipes import local
from npo_core.recipes import prune as pruning
from npo_core.recipes.forking import Request, fork_run
from npo_core.recipes.local import run_local
from npo_core.reporting.run_data import load
from npo_core.stages.prove import prove_replay
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch, Segment, Store, workspace_lock
from tests.recipes.conftest import tiny

RECIPES = ["grpo", "early-bootstrap", "auto-npo", "plateau-breakthrough"]
PLATEAU = Plateau(rollback_step=8, guide_step=16)


def files(workspace: Workspace) -> dict[str, int]:
    """All files of snapshots with their sizes, and none of the scratch."""
    folder = workspace.store.local("snapshots")
    return {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(params=RECIPES)
def copied(request, runs, tmp_path) -> tuple[str, Workspace]:
    """A finished run of a recipe, to be pruned."""
    shutil.copytree(runs[request.param].uri, tmp_path / "run", ignore=shutil.ignore_patterns(".*"))
    return request.param, Workspace(tmp_path / "run")


@pytest.fixture
def finished(runs, tmp_path) -> Workspace:
    """A finished run with a scout, a guide and a replay."""
    shutil.copytree(runs["early-bootstrap"].uri, tmp_path / "run", ignore=shutil.ignore_patterns(".*"))
    return Workspace(tmp_path / "run")


def test_a_pruned_run_is_the_same_run(copied):
    """It frees room; the figures, a second start and a proof are as before, and a second pruning finds nothing."""
    recipe, workspace = copied
    before, figures = files(workspace), load(workspace)
    found = pruning.prune(workspace)
    after = files(workspace)
    freed = sum(one.bytes for one in found)
    pruned = {name for name in before if name not in after}
    assert freed == sum(before[name] for name in pruned) > 0
    assert load(workspace) == figures
    assert prove_replay(workspace.uri)["equal"]
    run_local(recipe, tiny(), workspace.uri, plateau=PLATEAU if recipe == "plateau-breakthrough" else None)
    assert files(workspace) == after, "a second start made something anew"
    assert sum(one.bytes for one in pruning.plan(workspace)) == 0


def test_every_snapshot_is_what_the_plan_says(finished):
    """Whole ones load for training, weights for reading, and the others say that they were pruned."""
    workspace = finished
    keeps = {one.snapshot: one.keeps for one in pruning.prune(workspace)}
    assert set(keeps.values()) >= {"whole", "nothing"}
    for id_, kept in keeps.items():
        for whole in (True, False):
            if kept == "whole" or (kept == "weights" and not whole):
                assert workspace.snapshot_folder(id_, whole=whole).is_dir()
            elif kept == "nothing":
                with pytest.raises(DataError, match=r"was pruned, .* is gone: choose a step that `npo prune"):
                    workspace.snapshot_folder(id_, whole=whole)
        assert workspace.timeline.snapshots.get(id_).id == id_  # what it was is still known


def test_a_fork_starts_at_a_step_that_is_whole_and_names_one_that_is_not(runs, tmp_path):
    shutil.copytree(runs["grpo"].uri, tmp_path / "run", ignore=shutil.ignore_patterns(".*"))
    workspace = Workspace(tmp_path / "run")
    found = pruning.prune(workspace)
    gone = next(one for one in found if one.keeps == "nothing" and one.step in workspace.timeline.states("main"))
    with pytest.raises(DataError, match=f"at = {gone.step}: this snapshot of .* was pruned; choose a step that"):
        fork_run(Request(workspace.uri, gone.step, branch="main"), str(tmp_path / "no"))


def test_pinned_snapshots_stay_and_a_pruned_one_cannot_be_pinned(finished):
    workspace = finished
    one, *others = [kept for kept in pruning.plan(workspace) if kept.keeps == "nothing"]
    pruning.pin(workspace, [one.snapshot[:8]])
    found = {kept.snapshot: kept for kept in pruning.prune(workspace)}
    assert (found[one.snapshot].keeps, found[one.snapshot].why) == ("whole", "pinned")
    assert workspace.snapshot_folder(one.snapshot, whole=True).is_dir()
    if others:
        with pytest.raises(DataError, match="it was pruned already"):
            pruning.pin(workspace, [others[0].snapshot])


def test_a_run_that_goes_on_is_left_alone(finished):
    workspace = finished
    with workspace_lock(workspace.store, "a run"), pytest.raises(WorkspaceBusyError):
        pruning.prune(workspace)


def test_the_command_shows_first_and_deletes_when_told(finished):
    workspace = finished
    before = files(workspace)
    shown = CliRunner().invoke(app, ["prune", workspace.uri, "--json"])
    planned = json.loads(shown.stdout)
    assert files(workspace) == before and not planned["deleted"]
    done = json.loads(CliRunner().invoke(app, ["prune", workspace.uri, "--yes", "--json"]).stdout)
    assert done["deleted"] and done["bytes"] == planned["bytes"] > 0
    assert "0.0 MB would go" in CliRunner().invoke(app, ["prune", workspace.uri]).stdout


def test_a_snapshot_that_is_made_anew_is_whole_again(runs, tmp_path):
    shutil.copytree(runs["grpo"].uri, tmp_path / "run", ignore=shutil.ignore_patterns(".*"))
    workspace = Workspace(tmp_path / "run")
    gone = next(one for one in pruning.plan(workspace) if one.keeps == "nothing")
    snapshot = workspace.timeline.snapshots.get(gone.snapshot)
    copy = shutil.copytree(workspace.store.local(f"snapshots/{gone.snapshot}"), tmp_path / "anew")
    pruning.prune(workspace)
    workspace.timeline.snapshots.add(copy, content=snapshot.content, step=snapshot.step, info=snapshot.info)
    assert workspace.snapshot_folder(gone.snapshot, whole=True).is_dir()


def test_a_run_that_keeps_what_is_needed_prunes_itself_and_is_the_same_run(runs, tmp_path, monkeypatch):
    """The abandoned scout loses its optimizer's state before the replay goes on; after the report the rest goes."""
    freed, prune = [], local.prune_own
    monkeypatch.setattr(local, "prune_own", lambda workspace: freed.append(prune(workspace)) or freed[-1])
    config = tiny(retention="needed")
    run_local("early-bootstrap", config, str(tmp_path / "run"))
    workspace, whole = Workspace(tmp_path / "run"), runs["early-bootstrap"]
    for branch in whole.timeline.branches():
        assert workspace.timeline.states(branch.name) == whole.timeline.states(branch.name)
    gone = [{name for one in found for name in one.files} for found in freed]
    assert {"optimizer.pt"} in gone[:-1], gone  # while the run went on
    assert "model.safetensors" in gone[-1]
    assert sum(one.bytes for one in pruning.plan(workspace)) == 0
    assert workspace.require_same(tiny()) is None, "retention decides nothing that is learned"


# Any tree of branches, made up: files of a few bytes, one segment a branch with a snapshot every 10 steps.
TREES = st.lists(
    st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(1, 4), st.booleans()), min_size=1, max_size=6
)


def grow(workspace: Workspace, tree: list[tuple[int, int, int, bool]], folder: Path) -> dict[str, int]:
    """Branches (of which branch, at which of its snapshots, how many snapshots, guided); snapshot -> step."""
    made: dict[str, int] = {}

    def snapshot(name: str, step: int) -> str:
        part = folder / name
        part.mkdir()
        for file in ("model.safetensors", "optimizer.pt", "pool.json"):
            (part / file).write_text(name)
        made[id_ := workspace.timeline.snapshots.add(part, content={"weights": name}, step=step, info={}).id] = step
        return id_

    lines = [[(snapshot("base", 0), 0)]]
    for number, (of, at, length, guided) in enumerate(tree):
        line = lines[of % len(lines)]
        start, t0 = line[at % len(line)]
        guide = [lines[-1][-1][0]] if guided else []
        name = f"b{number}"
        workspace.timeline.add_branch(Branch(name=name, parent=start, parent_step=t0, reason=name, guide=guide))
        new = [(snapshot(f"{name}-{i}", t0 + 10 * i), t0 + 10 * i) for i in range(1, length + 1)]
        steps = {step: id_ for id_, step in new}
        workspace.timeline.add_segment(
            Segment(id=f"s{number}", branch=name, start=start, end=new[-1][0], t0=t0, t1=new[-1][1],
                    snapshots=steps, parts=sorted(steps))
        )  # fmt: skip
        lines.append([(start, t0), *new])
    return made


@given(tree=TREES, over=st.booleans(), broken=st.integers(0, 6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tree_keeps_what_is_needed_also_when_broken_off(tree, over, broken):
    with tempfile.TemporaryDirectory() as name, patch.object(pruning, "is_over", lambda workspace: over):
        workspace = Workspace(Path(name) / "run")
        workspace.bind(tiny())
        made = grow(workspace, tree, Path(name))
        timeline, remove, calls = workspace.timeline, Store.remove, iter(range(100))

        def breaks(store: Store, rel: str) -> None:
            if next(calls) == broken:
                raise OSError("power is gone")
            remove(store, rel)

        with patch.object(Store, "remove", breaks):
            try:
                pruning.prune(workspace)
            except OSError:
                pass
        keeps = {one.snapshot: one.keeps for one in pruning.prune(workspace)}
        assert set(keeps) == set(made)
        for branch in timeline.branches():
            assert keeps[branch.parent] == "whole"
            assert all(keeps[guide] != "nothing" for guide in branch.guide)
            *_, end = timeline.states(branch.name).values()
            assert keeps[end] == "whole"
        if not over:
            assert "nothing" not in keeps.values()
            assert all(keeps[id_] == "whole" for id_ in timeline.states(timeline.final().name).values())
        for id_, kept in keeps.items():
            present = {p.name for p in workspace.store.local(f"snapshots/{id_}").iterdir()} - {"manifest.json"}
            expected = {"whole": {"model.safetensors", "optimizer.pt", "pool.json"}, "nothing": set()}
            assert present - {"pruned.json"} == expected.get(kept, {"model.safetensors", "pool.json"})
