"""One small run through all stages, each in a process of its own, and a copy of it from before each stage to break."""

from __future__ import annotations

import faulthandler
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from npo_core.config import RunConfig, parse_config
from npo_core.names import LOG_FILE, SPEC_FILE
from npo_core.stages import forked, launch
from npo_core.stages.execute import main
from npo_core.stages.results import Result
from npo_core.stages.specs import BaseSpec, EvaluateSpec, GuideSpec, Spec, TrainSpec
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch
from npo_core.timeline.segments import TIMINGS, read_outcomes, read_steps
from tests.machines import Second, meet

STEPS = 32
SETTINGS = {
    "problems": {"kind": "chain", "train": 64, "held_out": 16, "operands": 3, "difficulties": [0, 1, 2]},
    "model": {
        "kind": "built-in",
        "layers": 1,
        "width": 32,
        "heads": 2,
        "steps": 150,
        "batch": 32,
        "learning_rate": 1e-2,
    },
    "training": {
        "steps": STEPS,
        "prompts_per_step": 4,
        "group_size": 4,
        "max_completion_tokens": 3,
        "snapshot_every": 4,
        "learning_rate": 1e-3,
    },
    "guidance": {"chunk_prompts": 4, "skip_passed": False, "samples": 16, "batch": 5},
    "bootstrap": {"scout_steps": STEPS},
    "evaluation": {"every": 4, "samples": 2, "batch": 3},  # of 32 completions parts of four
    "execution": {"device": "cpu", "start": "fork", "threads": 1},
}


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of its own, no network, one thread; set before the first process starts."""
    import npo_core.models.built_in
    import npo_core.training.build
    import npo_core.training.recorder  # noqa: F401

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # forks share memory, and their trainers do not walk through all of torch
    folder = tmp_path_factory.mktemp("npo-home")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"NPO_HOME": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        yield folder


@pytest.fixture(scope="session")
def config() -> RunConfig:
    return parse_config(SETTINGS)


class Run:
    """A workspace and the specifications of its stages."""

    def __init__(self, folder: Path, config: RunConfig, found: dict[str, Any]):
        self.folder, self.config, self.found = folder, config, found
        self.workspace = Workspace(folder)
        self.common = {"workspace": self.workspace.uri, "execution": config.execution, "problems": config.problems}

    def base(self) -> BaseSpec:
        return BaseSpec(model=self.config.model, **self.common)

    def train(self, branch: str, **changes) -> TrainSpec:
        values = {
            "training": self.config.training,
            "injection": self.config.injection,
            "seed": 1,
            "sampling_seed": 1,
            "branch": branch,
            "start": self.found["base"],
            "until": STEPS,
            **self.common,
        }
        return TrainSpec(**{**values, **changes})

    def guided(self, **changes) -> TrainSpec:
        return self.train("guided", **{"cache": self.found["cache"], **changes})

    def guide(self, **changes) -> GuideSpec:
        values = {
            "training": self.config.training,
            "guidance": self.config.guidance,
            "tau_gate": 0.6,
            "seed": 1,
            "guides": self.found["guides"],
            "rollback": self.found["base"],
            "segments": [self.found["scout"]],
            **self.common,
        }
        return GuideSpec(**{**values, **changes})

    def evaluate(self, **changes) -> EvaluateSpec:
        values = {
            "evaluation": self.config.evaluation,
            "max_completion_tokens": 3,
            "snapshots": self.found["evaluated"],
            **self.common,
        }
        return EvaluateSpec(**{**values, **changes})

    def spec(self, stage: str) -> Spec:
        return {"train": self.guided, "guide": self.guide, "evaluate": self.evaluate}[stage]()

    def outcome(self, spec: Spec, result: Result) -> dict[str, Any]:
        """Everything that a stage left and that no interruption may change."""
        costs = {name: value for name, value in result.cost.as_dict().items() if "seconds" not in name}
        kept = {**result.as_json(), "cost": costs}
        store = self.workspace.store
        if isinstance(spec, TrainSpec):
            record = self.workspace.timeline.segment(result.segment)
            folders = [self.workspace.timeline.snapshots.folder(id_, self.folder) for id_ in record.snapshots.values()]
            assert all((folder / "trainer_state.json").exists() for folder in folders)
            kept |= {
                "parts": record.parts,
                "outcomes": read_outcomes(store, record).to_pylist(),
                "steps": read_steps(store, record).drop_columns(list(TIMINGS)).to_pylist(),
            }
        if isinstance(spec, GuideSpec):
            kept["rows"] = [row.digest() for row in self.workspace.open_cache(result.cache, self.prompts(), {})]
        if isinstance(spec, EvaluateSpec):
            folder = f"evaluations/{spec.protocol}"
            kept["records"] = {name: store.read_bytes(f"{folder}/{name}") for name in store.list(folder)}
        return kept

    def prompts(self) -> list[str]:
        from npo_core.problems.load import load_problems

        return [problem.id for problem in load_problems(self.config.problems).train]


@pytest.fixture(scope="session")
def reference(home: Path, config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The uninterrupted run: what each stage left, and a copy of the workspace from before each stage."""
    folder = tmp_path_factory.mktemp("reference")
    found: dict[str, Any] = {}
    run, before, left, results = Run(folder / "run", config, found), {}, {}, {}
    forked.fork_server(config.execution)
    found["base"] = launch.run_stage(run.base()).result.snapshot
    for branch in ("scout", "guided"):
        run.workspace.timeline.add_branch(Branch(name=branch, parent=found["base"], parent_step=0, reason="test"))
    scout = launch.run_stage(run.train("scout")).result
    snapshots = scout.snapshots
    found |= {"scout": scout.segment, "guides": [snapshots[STEPS // 2], snapshots[STEPS]], "snapshots": snapshots}
    found["evaluated"] = [found["base"], *snapshots.values()]
    for stage in ("guide", "train", "evaluate"):
        before[stage] = shutil.copytree(folder / "run", folder / f"before-{stage}")
        spec = run.spec(stage)
        results[stage] = launch.run_stage(spec).result
        found |= {"cache": results[stage].cache} if stage == "guide" else {}
        left[stage] = run.outcome(spec, results[stage])
    return SimpleNamespace(run=run, found=found, before=before, left=left, results=results)


@pytest.fixture
def fresh(reference: SimpleNamespace, config: RunConfig, tmp_path: Path) -> Callable[..., Run]:
    """A workspace of its own, as the reference was before a stage; `into` is a folder that does not exist."""

    def make(stage: str, into: Path | None = None) -> Run:
        return Run(shutil.copytree(reference.before[stage], into or tmp_path / "run"), config, reference.found)

    return make


def stage_processes(server: forked.ForkServer) -> list[psutil.Process]:
    """The stages that a fork server runs now."""
    try:
        children = psutil.Process(server.process.pid).children()
        return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return []


@pytest.fixture
def running(config: RunConfig) -> Callable[[], list[psutil.Process]]:
    """Asks which stages the fork server of this session runs now."""
    return lambda: stage_processes(forked.fork_server(config.execution))


class OwnFork:
    """A stage that is a fork of this process."""

    def __init__(self, pid: int):
        self.pid, self.code = pid, None

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, timeout: float) -> int:
        time.sleep(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(f"stage {self.pid}", timeout)
        return self.code

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


class OwnForks:
    """Starts stages as forks of this process, after `change` has changed what they do."""

    def __init__(self, change: Callable[[], None]):
        self.change, self.started = change, 0

    def start(self, spec: Spec, scratch: Path) -> OwnFork:
        self.started += 1
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self.stage(spec, scratch)
        return OwnFork(pid)

    def stage(self, spec: Spec, scratch: Path) -> None:
        code = 70
        try:
            log = os.open(scratch / LOG_FILE, os.O_WRONLY | os.O_APPEND)
            faulthandler.disable()  # the test runner's would write beside the log
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout, sys.stderr = (os.fdopen(fd, "w", buffering=1, closefd=False) for fd in (1, 2))
            self.change()
            code = main(spec.stage, scratch / SPEC_FILE)
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(code)


@pytest.fixture
def own_forks(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], OwnForks]:
    """From the call on, stages of this test are forks of this process, changed as told."""

    def use(change: Callable[[], None] = lambda: None) -> OwnForks:
        forks = OwnForks(change)
        monkeypatch.setattr(launch, "fork_server", lambda execution: forks)
        return forks

    return use


@pytest.fixture
def second(own_forks, monkeypatch, tmp_path):
    """Starts the second machine, of two processes as if it had two GPUs, for stages that this test starts."""
    own_forks()
    port = meet(monkeypatch)
    machine = Second(port, tmp_path / "second.log", 2)
    yield machine
    machine.lose()
