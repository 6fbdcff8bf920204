"""What messages say of lost and damaged files, done: the same command makes them anew, bit for bit."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from npo_core.errors import NPOError
from npo_core.recipes.local import run_local
from npo_core.stages.workspace import Workspace
from tests.flows.conftest import outcome
from tests.recipes.conftest import tiny


@pytest.fixture
def whole(runs) -> Workspace:
    return runs["early-bootstrap"]


def base(run: Workspace) -> Path:
    return run.store.local(f"snapshots/{run.timeline.snapshots.list()[0].id}")


def snapshot(run: Workspace, branch: str, step: int) -> Path:
    return run.store.local(f"snapshots/{run.timeline.states(branch)[step]}")


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    """Other bytes of the same number, which only who reads them can notice."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


LOST: dict[str, Callable[[Workspace], object]] = {
    "the base": lambda run: shutil.rmtree(base(run)),
    "a snapshot within a segment": lambda run: shutil.rmtree(snapshot(run, "scout", 4)),
    "a snapshot that was cut off": lambda run: cut_off(snapshot(run, "scout", 8) / "model.safetensors"),
    "a manifest": lambda run: (snapshot(run, "replay", 24) / "manifest.json").unlink(),
    "a segment": lambda run: shutil.rmtree(run.store.local(f"segments/{run.timeline.path('scout')[-1].id}")),
    "a part of a segment": lambda run: next(run.store.local("segments").glob("*/steps-000008.parquet")).unlink(),
    "a cache": lambda run: shutil.rmtree(next(run.store.local("guidance").iterdir())),
    "a part of a cache": lambda run: cut_off(next(run.store.local("guidance").glob("*/part-*.parquet"))),
    "an evaluation": lambda run: next(run.store.local("evaluations").glob("*/*.json")).unlink(),
}


@pytest.mark.parametrize("lost", LOST)
def test_what_is_lost_is_made_anew(whole, home, tmp_path, lost, capfd):
    run = Workspace(shutil.copytree(whole.uri, tmp_path / "run"))
    before = outcome(run.uri)
    LOST[lost](run)
    run_local("early-bootstrap", tiny(), run.uri)
    assert outcome(run.uri) == before
    assert "makes it anew" in capfd.readouterr().err


def test_what_a_message_on_a_damaged_snapshot_says_works(whole, home, tmp_path):
    """The guide is asked anew here, and reads the damaged snapshot."""
    run = Workspace(shutil.copytree(whole.uri, tmp_path / "run"))
    before, damaged = outcome(run.uri), snapshot(run, "scout", 12)
    flip(damaged / "model.safetensors")
    shutil.rmtree(next(run.store.local("guidance").iterdir()))
    shutil.rmtree(next(run.store.local("stages").glob("guide-*")))
    with pytest.raises(NPOError, match=f"Delete {damaged} and start the same command again") as caught:
        run_local("early-bootstrap", tiny(), run.uri)
    assert caught.value.exit_code == 66
    shutil.rmtree(damaged)
    run_local("early-bootstrap", tiny(), run.uri)
    assert outcome(run.uri) == before
