"""One Prefect server and one home for all flow tests; flows run as the command `npo run` in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[2]
TINY = {
    "name": "tiny",
    "problems": {"kind": "chain", "train": 96, "held_out": 16, "operands": 3, "difficulties": [1, 2]},
    "model": {"kind": "built-in", "layers": 1, "width": 32, "heads": 2, "steps": 150, "batch": 32},
    "training": {"steps": 24, "prompts_per_step": 8, "group_size": 4, "max_completion_tokens": 3, "snapshot_every": 4},
    "bootstrap": {"scout_steps": 12},
    "guidance": {"chunk_prompts": 16, "samples": 4},
    "evaluation": {"every": 12, "samples": 2, "target": 0.5},
    "execution": {"start": "fork", "retry_delay": 0.1},
}


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of commands, with a server that lives as long as the session."""
    home = tmp_path_factory.mktemp("home")
    os.environ |= {"NPO_HOME": str(home), "PREFECT_HOME": str(home / "prefect"), "HF_HUB_OFFLINE": "1"}
    from flows.server import QUIET, start_server, wait_until_healthy

    os.environ |= QUIET
    process, url = start_server()
    try:
        wait_until_healthy(process, url)
        yield {**os.environ, "PREFECT_API_URL": url, "OMP_NUM_THREADS": "1"}
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def npo(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "npo_core.command", *map(str, arguments)]


def finish(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)


def family(process: subprocess.Popen) -> list[psutil.Process]:
    """The process and everything below it."""
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]
