"""What a sweep finds: runs that stand still, that do not, that were treated, that are not finished."""

import shutil

import pytest

from npo_core.config import Trigger
from npo_core.errors import DataError
from npo_core.recipes.sweep import MOVES, STILL, TREATED, UNFINISHED, UNREADABLE, look_at, look_at_runs, sweep_table
from npo_core.reporting.tables import markdown
from npo_core.stages.workspace import Workspace
from tests.flows.conftest import ALWAYS

EVERY = Trigger(**ALWAYS)
NEVER = Trigger(ema=0.5, window=3, min_gain=-1.0)


def test_every_run_of_a_folder_gets_its_verdict(runs, tmp_path):
    for name, recipe in {"treated": "grpo", "still": "early-bootstrap", "unfinished": "early-bootstrap"}.items():
        shutil.copytree(runs[recipe].uri, tmp_path / name)
    [evaluated] = (tmp_path / "unfinished/stages").glob("evaluate-*")
    shutil.rmtree(evaluated)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("{")
    found = {looked.name: looked for looked in look_at_runs(str(tmp_path), EVERY)}
    assert {name: looked.found for name, looked in found.items()} == {
        "treated": TREATED,
        "still": STILL,
        "unfinished": UNFINISHED,
        "broken": UNREADABLE,
    }
    assert found["still"].tip == runs["early-bootstrap"].timeline.states("replay")[24]
    assert "plateau began at update" in found["still"].why and "at step 16" in found["treated"].why
    assert "not JSON" in found["broken"].why
    text = markdown(sweep_table(str(tmp_path), [(looked, "") for looked in found.values()]))
    assert all(name in text for name in found)


def test_a_run_whose_signals_never_warn_does_not_stand_still(runs):
    looked = look_at(runs["early-bootstrap"], NEVER)
    assert (looked.found, looked.tip) == (MOVES, None)


def test_a_plateau_that_was_left_is_none(runs, monkeypatch):
    """The newest warning was at an update whose average the run has left far behind since."""
    from npo_core.recipes import sweep

    rows = [{"step": step, "pass_rate": 0.1, "entropy": 1.0 - step / 100} for step in range(1, 13)]
    rows += [{"step": step, "pass_rate": 0.9, "entropy": 1.2} for step in range(13, 25)]
    monkeypatch.setattr(sweep, "path_rows", lambda *_: rows)
    looked = look_at(runs["early-bootstrap"], Trigger(ema=0.5, window=3, min_gain=0.04, warm_up=3))
    assert looked.found == MOVES and "It left the plateau of update 12" in looked.why


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere is no folder here"):
        look_at_runs(str(tmp_path / "nowhere"), EVERY)


def test_a_look_writes_nothing(runs):
    workspace = Workspace(runs["auto-npo"].uri)
    before = sorted(p for p in workspace.store.local("").rglob("*"))
    look_at(workspace, EVERY)
    assert sorted(p for p in workspace.store.local("").rglob("*")) == before
