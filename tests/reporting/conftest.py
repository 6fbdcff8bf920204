"""Fixtures: the runs of `small_runs`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import BASE, add_stage, make_auto, make_bootstrap, make_grpo, make_plateau, new_workspace

from npo_core.recipes.run import Run
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs, written once; tests work on copies."""
    folder = tmp_path_factory.mktemp("made")
    make_bootstrap(folder / "npo")
    make_grpo(folder / "grpo")
    make_plateau(folder / "plateau")
    make_auto(folder / "auto")
    return folder


@pytest.fixture
def bootstrap(made: Path, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(made / "npo", tmp_path / "npo"))


@pytest.fixture
def grpo(made: Path, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(made / "grpo", tmp_path / "grpo"))


@pytest.fixture
def plateau(made: Path, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(made / "plateau", tmp_path / "plateau"))


@pytest.fixture
def auto(made: Path, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(made / "auto", tmp_path / "auto"))


@pytest.fixture
def begun(tmp_path: Path) -> Callable[..., Workspace]:
    """A GRPO run that is under way: two updates committed, three of eight done by its events."""

    def make(error: str | None = None) -> Workspace:
        workspace = new_workspace(tmp_path / "begun")
        workspace.timeline.add_branch(Branch(name="main", parent=BASE, parent_step=0, reason="GRPO"))
        spec = Run(workspace.config(), workspace).train(branch="main", start=BASE, until=8)
        add_stage(workspace, "train", spec.fingerprint, spec.model_dump(mode="json"), None)
        scratch = workspace.scratch / spec.folder
        scratch.mkdir(parents=True)
        event = {"time": 1.0, "done": 3, "total": 8, "step": 3, "pass_rate": 0.3, "entropy": 0.5}
        (scratch / "events.jsonl").write_text(json.dumps(event) + "\n" + '{"cut off')
        if error:
            (scratch / "error.json").write_text(json.dumps({"kind": "X", "message": error, "retryable": False}))
        return workspace

    return make
