"""Tiny random models, problems with pictures, and runs whose stages run in this process."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from npo_core.config import (
    Control,
    DataProblems,
    Evaluation,
    Execution,
    Guidance,
    Injection,
    PretrainedModel,
    Probe,
    Training,
)
from npo_core.models.tiny import make_tiny
from npo_core.stages.context import scratch_folder
from npo_core.stages.execute import execute
from npo_core.stages.launch import read_result
from npo_core.stages.specs import BaseSpec, EvaluateSpec, GuideSpec, ProbeSpec, Spec, TrainSpec
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch
from npo_core.timeline.segments import read_steps
from tests.models.pictures import ANY_END, picture_rows, write_rows
from tests.training.ranks import in_processes

EXECUTION = Execution(device="cpu", threads=1)
TRAINING = Training(steps=4, prompts_per_step=4, group_size=4, max_completion_tokens=8, snapshot_every=2, micro_batch=8)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The folder of a tiny model of a type, made once."""
    made = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            make_tiny(kind, made[kind])
        return made[kind]

    return folder


class Run:
    """A workspace, a model and problems. `rows` makes the problems' rows in a folder."""

    def __init__(self, folder: Path, model: Path, rows=picture_rows, **model_fields):
        self.folder, self.workspace = folder, Workspace(folder / "workspace")
        self.model = PretrainedModel(kind="pretrained", path=str(model), **{"dtype": "float32", **model_fields})
        made = rows(folder)
        columns = {"images": ["image"]} if "image" in made[0] else {}
        source = {"path": write_rows(folder, made), "columns": columns}
        self.problems = DataProblems(kind="data", train=source, held_out_rows=4, answer_pattern=ANY_END)
        self.common = {"workspace": self.workspace.uri, "execution": EXECUTION, "problems": self.problems}

    def __call__(self, spec: Spec) -> dict:
        workspace = Workspace(spec.workspace)
        scratch = scratch_folder(workspace, spec)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        workspace.store.write_json(f"{spec.folder}/spec.json", spec.model_dump(mode="json"))
        if spec.processes == 1:
            execute(spec, workspace, scratch)
        else:
            in_processes(spec.processes, lambda: execute(spec, workspace, scratch))
        return read_result(workspace, spec).result

    def base(self) -> str:
        return self(BaseSpec(model=self.model, **self.common)).snapshot

    def train(
        self,
        branch: str,
        start: str,
        cache: str | None = None,
        until: int = 4,
        execution: Execution = EXECUTION,
        control: Control | None = None,
        mixed: dict | None = None,
        **training,
    ) -> SimpleNamespace:
        """A segment on a new branch: its record, and its steps. `mixed`: further fields of its specification."""
        step = self.workspace.timeline.snapshots.get(start).step
        self.workspace.timeline.add_branch(Branch(name=branch, parent=start, parent_step=step, reason="test"))
        settings = TRAINING.model_copy(update=training)
        spec = TrainSpec(
            **({"injection": Injection()} | (mixed or {})), training=settings, seed=1, sampling_seed=2, branch=branch,
            start=start, until=until, cache=cache, control=control, quiet_until=until,
            **(self.common | {"execution": execution}),
        )  # fmt: skip
        record = self.workspace.timeline.segment(self(spec).segment)
        return SimpleNamespace(record=record, steps=read_steps(self.workspace.store, record).to_pylist())

    def guide(self, scout: SimpleNamespace, base: str, execution: Execution = EXECUTION, **guidance) -> dict:
        guidance = Guidance(samples=32, samples_per_round=16, skip_passed=False, **guidance)
        return self(
            GuideSpec(
                training=TRAINING, guidance=guidance, tau_gate=0.6, seed=1, guides=[scout.record.end], rollback=base,
                segments=[scout.record.id], **(self.common | {"execution": execution}),
            )
        )  # fmt: skip

    def probe(self, snapshot: str, *candidates: str) -> dict:
        """Of a watched segment's snapshot."""
        spec = ProbeSpec(
            control=Control(), probe=Probe(), max_completion_tokens=4, seed=1, snapshot=snapshot,
            candidates=list(candidates), **self.common,
        )  # fmt: skip
        return self(spec).probe

    def evaluate(self, *snapshots: str) -> list[dict]:
        evaluation = Evaluation(samples=2)
        return self(
            EvaluateSpec(evaluation=evaluation, max_completion_tokens=4, snapshots=list(snapshots), **self.common)
        ).scores


@pytest.fixture
def run(tmp_path, tiny):
    """Makes a `Run` of a type of model."""
    return lambda kind, **fields: Run(tmp_path, tiny(kind), **fields)
