"""The server that `npo run` starts for itself dies: it is started again, and without it the run goes on."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import psutil
import pytest

from flows import grpo, run, server
from npo_core.errors import StageError
from tests.flows.conftest import ROOT, npo, wait_for
from tests.recipes.conftest import tiny


def sleeper() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def test_a_server_that_ends_is_started_again_and_given_up_in_the_end(monkeypatch, capfd):
    ports = []

    def start_server(port):
        ports.append(port)
        return sleeper(), f"http://127.0.0.1:{port}/api"

    monkeypatch.setattr(server, "start_server", start_server)
    monkeypatch.setattr(server, "LOOK", 0.05)
    made = server.Server("http://127.0.0.1:4321/api", sleeper())
    made.keep_alive()
    for starts in (2, 3):
        made.process.kill()
        deadline = time.monotonic() + 60
        while made.starts < starts and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not made.gone
    made.process.kill()
    made.thread.join(60)
    made.end()
    said = capfd.readouterr().err
    assert made.gone and ports == [4321, 4321]
    assert said.count("is started again") == 2 and said.count("goes on without it") == 1


class Gone:
    gone = True


@contextmanager
def no_server(meanwhile):
    yield Gone()


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_without_its_server_the_run_goes_on_and_ends_as_it_would(ends, monkeypatch):
    """An error of the run itself keeps its exit code: it comes again, now without Prefect in between."""

    def away(**_):
        raise httpx.ConnectError("All connection attempts failed")

    def run_local(recipe, config, workspace, *_):
        if ends == "badly":
            raise StageError("diverged", exit_code=67)
        return {"recipe": recipe, "workspace": workspace}

    monkeypatch.setattr(run, "local_server", no_server)
    monkeypatch.setattr(grpo, "grpo", away)
    monkeypatch.setattr(run, "run_local", run_local)
    config = tiny(execution__start="spawn")
    if ends == "well":
        assert run.run_flow("grpo", config, "/runs/a") == {"recipe": "grpo", "workspace": "/runs/a"}
    else:
        with pytest.raises(StageError) as caught:
            run.run_flow("grpo", config, "/runs/a")
        assert caught.value.exit_code == 67


def test_a_run_whose_server_is_killed_ends_well(config, prefect_database, tmp_path):
    (tmp_path / "prefect").mkdir()
    shutil.copy(prefect_database, tmp_path / "prefect/prefect.db")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    home = {"NPO_HOME": str(tmp_path / "home"), "PREFECT_HOME": str(tmp_path / "prefect"), "HF_HUB_OFFLINE": "1"}
    command = npo("run", "grpo", "--config", config, "--workspace", tmp_path / "run", "--set", "training.steps=48")
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(command, env=kept | home, cwd=ROOT, stderr=said, stdout=subprocess.DEVNULL)
        wait_for(tmp_path / "run", "segments/*/mark-000004.json", process, seconds=600)
        children = psutil.Process(process.pid).children()
        next(p for p in children if "flows.server" in p.cmdline()).kill()
        assert process.wait(600) == 0
    text = (tmp_path / "said").read_text()
    assert text.count("ended and is started again") == 1 and "Traceback" not in text
    assert (tmp_path / "run/report/report.md").exists()
