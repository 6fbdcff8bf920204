"""docs/your-model-and-data.md does what it says: its files are written, its commands run, its deployment is one."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from npo_core.models.tiny import make_tiny
from npo_core.stages import forked
from npo_core.stages.forked import ForkServer
from npo_core.stages.workspace import Workspace

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/your-model-and-data.md").read_text()
PARTS = ("flows", "tasks", "npo_core", "deployments", "prefect.yaml", "pyproject.toml", "README.md")
SMALLER = {
    "steps: 200": "steps: 4", "group_size: 8": "group_size: 4",
    "max_completion_tokens: 256": "max_completion_tokens: 8",
    "snapshot_every: 20": "snapshot_every: 2", "scout_steps: 40": "scout_steps: 2", "every: 40": "every: 2",
}  # fmt: skip
NOT_RUN = ("make serve",)  # tests/product/test_serve.py does


def files(kind: str) -> dict[str, str]:
    """The guide's blocks that are files, or what is appended to one, by name."""
    return dict(re.findall(rf"<!-- {kind}: (\S+) -->\n```\w+\n(.*?)```", TEXT, re.DOTALL))


def commands() -> list[str]:
    lines = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
    return [re.sub(r"\s+#.*", "", line) for line in lines if line.strip()]


@pytest.fixture(scope="module")
def checkout(environment, tmp_path_factory) -> Path:
    """A copy of the checkout with the guide's files, smaller."""
    folder = tmp_path_factory.mktemp("guide")
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    make_tiny("qwen3", folder / "Qwen/Qwen3-0.6B")
    for name, text in files("file").items():
        for old, new in SMALLER.items() if name.endswith(".yaml") else ():
            assert old in text, old
            text = text.replace(old, new)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def prefect(command: str, folder: Path, environment: dict[str, str]) -> str:
    """What a command of Prefect prints."""
    words = [sys.executable, "-m", "prefect", *command.split()]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture
def here(checkout, monkeypatch) -> Iterator[None]:
    """The reader's folder and module path; stages fork from a parent of their own, which has them too."""
    servers: dict[int, ForkServer] = {}
    monkeypatch.setattr(forked, "_servers", servers)
    monkeypatch.chdir(checkout)
    monkeypatch.setattr(sys, "path", [*sys.path, str(checkout)])
    yield
    sys.modules.pop("rewards", None)
    for server in servers.values():
        server.close()


def test_every_command_works(checkout, here, call, monkeypatch):
    assert {*files("file")} == {"data/train.jsonl", "rewards.py", "my-run.yaml"} and len(commands()) > 8
    said = {}
    for command in commands():
        program, *words = command.split()
        if program == "export":
            monkeypatch.setenv(*words[0].split("="))
        elif program == "npo":
            said[command] = call(*words).output
        elif command not in NOT_RUN:
            subprocess.run([program, *words], check=True)
    problems, plan, evaluation = (next(s for c, s in said.items() if c.startswith(f"npo {w}")) for w in WORDS)
    assert "Answer with a number and its unit." in problems and "Qwen3" in plan and "pass@1" in evaluation
    assert "is equal bit for bit" in said["npo prove-replay runs/npo"]
    for name, branches in (("grpo", {"main"}), ("npo", {"scout", "replay"}), ("trial", {"scout", "replay"})):
        assert {segment.branch for segment in Workspace(checkout / "runs" / name).timeline.segments()} == branches


WORDS = ("problems", "plan", "evaluate")


def test_the_deployment_is_one(checkout, environment):
    (checkout / "deployments/configs/my-run.yaml").write_text((checkout / "my-run.yaml").read_text())
    [(name, addition)] = files("append").items()
    with open(checkout / name, "a") as file:
        file.write("\n" + addition)
    deployments = yaml.safe_load((checkout / name).read_text())["deployments"]
    assert deployments[-1]["name"] == "early-bootstrap-my-run"
    environment = environment | {"PYTHONPATH": str(checkout), "COLUMNS": "1000"}  # no name is broken between lines
    prefect("work-pool create npo --type process --overwrite", checkout, environment)
    said = prefect("--no-prompt deploy --name early-bootstrap-my-run", checkout, environment)
    assert "successfully created" in said
    shown = prefect("deployment inspect early-bootstrap/early-bootstrap-my-run", checkout, environment)
    assert "rewards:right_with_unit" in shown and "nightly" in shown
