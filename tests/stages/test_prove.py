"""Proofs of segments that need more than the snapshot they start from."""

import shutil
import subprocess

import pytest

from npo_core.config import parse_config
from npo_core.stages.launch import run_stage
from npo_core.stages.prove import prove_replay
from npo_core.timeline import Branch
from tests.stages.conftest import SETTINGS, Run


def test_a_segment_with_a_kl_that_starts_later(tmp_path):
    """The KL is to the base model, which is not where the segment starts."""
    run = Run(tmp_path / "run", parse_config(SETTINGS | {"training": {**SETTINGS["training"], "kl_coef": 0.1}}), {})
    run.found["base"] = run_stage(run.base()).result.snapshot
    run.workspace.timeline.add_branch(Branch(name="scout", parent=run.found["base"], parent_step=0, reason="test"))
    run_stage(run.train("scout", until=4))
    (first,) = run.workspace.timeline.segments()
    run.workspace.timeline.add_branch(Branch(name="later", parent=first.end, parent_step=4, reason="test"))
    segment = run_stage(run.train("later", start=first.end, until=8)).result.segment
    assert prove_replay(run.workspace.uri, segment)["equal"]


@pytest.fixture
def sealed(tmp_path):
    """Makes a folder that cannot be written to, with a copy of another."""
    folder = tmp_path / "sealed"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")

    def seal(source):
        shutil.copytree(source, folder, dirs_exist_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        return folder

    yield seal
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("scratch", [True, False])
def test_a_workspace_that_cannot_be_written_to(tmp_path, sealed, scratch):
    run = Run(tmp_path / "run", parse_config(SETTINGS), {})
    run.found["base"] = run_stage(run.base()).result.snapshot
    run.workspace.timeline.add_branch(Branch(name="main", parent=run.found["base"], parent_step=0, reason="test"))
    run_stage(run.train("main", until=2))
    if not scratch:
        shutil.rmtree(tmp_path / "run" / ".scratch")
    folder = sealed(tmp_path / "run")
    found = prove_replay(str(folder))
    assert found["equal"] and found["steps"] == 2
