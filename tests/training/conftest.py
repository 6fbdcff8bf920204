"""A tiny base model, made once, and what trains it in this process: the trainer, or the functions of the stages."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

from npo_core.config import BuiltInModel, ChainProblems, Execution, Injection, Training
from npo_core.problems import ProblemSet
from npo_core.problems.load import load_problems
from npo_core.stages.context import scratch_folder
from npo_core.stages.execute import execute
from npo_core.stages.launch import read_result
from npo_core.stages.specs import BaseSpec, GuideSpec, Spec, TrainSpec
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch
from npo_core.timeline.segments import TIMINGS, read_outcomes, read_steps
from npo_core.training.build import Rewards, grpo_config, training_data
from npo_core.training.trainer import NPOTrainer
from tests.training.ranks import in_processes

OPERANDS = 3  # two running results and the end-of-sequence token: three tokens
MODEL = BuiltInModel(layers=1, width=32, heads=2, steps=150, batch=32, learning_rate=1e-2)
EXECUTION = Execution(device="cpu", threads=1)


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of its own, no network, one thread."""
    torch.set_num_threads(1)
    import npo_core.training.recorder  # noqa: F401  the libraries, before they are frozen

    gc.collect()
    gc.freeze()  # a trainer collects garbage when it starts and would walk through all of torch each time
    folder = tmp_path_factory.mktemp("npo-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPO_HOME", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


@pytest.fixture(scope="session")
def base_folder(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model of the built-in task with its tokenizer; passes about one problem in ten."""
    from npo_core.models.built_in import train_base

    folder = tmp_path_factory.mktemp("base") / "model"
    train_base(MODEL, chain(), folder, lambda done, total: None)
    return folder


def chain(**changes) -> ChainProblems:
    return ChainProblems(**{"train": 64, "held_out": 16, "operands": OPERANDS, "difficulties": [0, 1, 2], **changes})


def training(**changes) -> Training:
    values = {
        "steps": 8,
        "prompts_per_step": 4,
        "group_size": 4,
        "max_completion_tokens": OPERANDS,
        "snapshot_every": 2,
        "learning_rate": 1e-3,
    }
    return Training(**{**values, **changes})


class Bench:
    """A workspace whose stages run in this process; `problems` and `training` hold for all of them."""

    def __init__(self, folder: Path, problems: ChainProblems, settings: Training):
        self.workspace = Workspace(folder)
        self.problems, self.training = problems, settings
        self.common = {"workspace": self.workspace.uri, "execution": EXECUTION, "problems": problems}
        self.base = self.run(BaseSpec(model=MODEL, **self.common)).snapshot

    def run(self, spec: Spec) -> dict:
        scratch = scratch_folder(self.workspace, spec)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        if spec.processes == 1:
            execute(spec, self.workspace, scratch)
        else:
            in_processes(spec.processes, lambda: execute(spec, self.workspace, scratch))
        return read_result(self.workspace, spec).result

    def spec(self, branch: str, start: str, until: int, **changes) -> TrainSpec:
        values = {"training": self.training, "injection": Injection(), "seed": 3, "sampling_seed": 5}
        return TrainSpec(**{"branch": branch, "start": start, "until": until, **values, **self.common, **changes})

    def train(self, branch: str, until: int, start: str | None = None, **changes) -> SimpleNamespace:
        """Train one segment, on a new branch where it starts at the base."""
        if start is None:
            start = self.base
            self.workspace.timeline.add_branch(Branch(name=branch, parent=start, parent_step=0, reason="test"))
        return self.segment(self.run(self.spec(branch, start, until, **changes)))

    def segment(self, result: dict) -> SimpleNamespace:
        """What a segment left: ids of its snapshots by step, its rows without timings, its outcomes."""
        store, record = self.workspace.store, self.workspace.timeline.segment(result.segment)
        return SimpleNamespace(
            id=record.id,
            end=record.end,
            snapshots=record.snapshots,
            steps=read_steps(store, record).drop_columns(list(TIMINGS)).to_pylist(),
            outcomes=read_outcomes(store, record).to_pylist(),
        )

    def guide(self, guides: list[str], scout: str, **changes) -> dict:
        from npo_core.config import Guidance

        return self.run(
            GuideSpec(
                training=self.training,
                guidance=Guidance(**changes),
                tau_gate=0.6,
                seed=3,
                guides=guides,
                rollback=self.base,
                segments=[scout],
                **self.common,
            )
        )


@pytest.fixture
def bench(home: Path, tmp_path: Path):
    """Makes a `Bench` from changes to the problems and to the training."""

    def make(problems: dict | None = None, name: str = "workspace", **changes) -> Bench:
        return Bench(tmp_path / name, chain(**(problems or {})), training(**changes))

    return make


@pytest.fixture
def train_settings():
    """The tiny `Training`, with changes."""
    return training


def judged(folder: Path, problems: ProblemSet, rewards: Rewards, settings: Training, output: Path, **changes):
    """A trainer of the base model with a judge's rewards, which saves and prints nothing."""
    args = grpo_config(settings, seed=0, output=output, device="cpu", reward_weights=rewards.weights)
    args.save_strategy = "no"
    trainer = NPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder),
        reward_funcs=rewards.functions,
        train_dataset=training_data(problems),
        args=args,
        processing_class=AutoTokenizer.from_pretrained(folder, padding_side="left"),
        **changes,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


@pytest.fixture(scope="session")
def problem_set(home: Path):
    """64 training and 16 held-out problems."""
    return load_problems(chain())
