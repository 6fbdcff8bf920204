"""Verifiers through real stages: a sum with a function of one's own from base to probe, refused, stuck, and killed."""

from __future__ import annotations

import json
import shutil
import threading
import time
from types import SimpleNamespace

import psutil
import pytest

from npo_core.config import Control, Guidance, Pool, PretrainedModel, Probe
from npo_core.config.problems import DataProblems
from npo_core.config.verifier import (
    ExactVerifier,
    FormatVerifier,
    FunctionVerifier,
    LengthVerifier,
    Part,
    WeightedVerifier,
)
from npo_core.errors import StageError
from npo_core.guidance.cache import read_info
from npo_core.problems.load import load_problems
from npo_core.stages.launch import run_stage
from npo_core.stages.specs import BaseSpec, EvaluateSpec, GuideSpec, ProbeSpec, TrainSpec
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch
from npo_core.timeline.segments import TIMINGS, read_steps

CONTROL = Control(pool=Pool(max_pass_rate=0.5))
SUM = WeightedVerifier(
    parts=[
        Part(name="accuracy", weight=0.9, verifier=FunctionVerifier(path="tests.problems.own:last_digit")),
        Part(name="format", weight=0.1, verifier=FormatVerifier(pattern=r"\A\d\d\Z")),
        Part(name="overlong", weight=1.0, verifier=LengthVerifier(max_tokens=4, buffer=2)),
    ]
)
WORTH = 0.9 + 0.1 - 0.5  # right, in form, and three tokens long


@pytest.fixture(scope="module")
def ground(home, config, tmp_path_factory) -> SimpleNamespace:
    """The built-in task as files, and its tiny model as a pretrained one."""
    folder = tmp_path_factory.mktemp("ground")
    problems = load_problems(config.problems)
    files = {}
    for name in ("train", "held_out"):
        rows = [{"question": p.prompt, "answer": p.answer, "level": "easy"} for p in getattr(problems, name)]
        files[name] = {"path": str(folder / f"{name}.jsonl"), "columns": {"others": ["level"]}}
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    workspace = Workspace(folder / "made")
    spec = BaseSpec(workspace=workspace.uri, execution=config.execution, problems=config.problems, model=config.model)
    made = run_stage(spec).result.snapshot
    model = PretrainedModel(kind="pretrained", path=str(workspace.timeline.snapshots.folder(made, folder)))
    return SimpleNamespace(files=files, model=model)


class Stages:
    """The stages of a run with a verifier in a workspace of its own."""

    def __init__(self, folder, config, ground, verifier, **execution):
        self.workspace, self.config, self.model = Workspace(folder), config, ground.model
        problems = DataProblems(
            kind="data", **ground.files, chat="never", answer_pattern=r"^\d(\d)$", verifier=verifier
        )
        execution = config.execution.model_copy(update=execution)
        self.common = {"workspace": self.workspace.uri, "execution": execution, "problems": problems}

    def base(self) -> str:
        return run_stage(BaseSpec(model=self.model, **self.common)).result.snapshot

    def train(self, branch: str, base: str, cache: str | None = None) -> dict:
        self.workspace.timeline.add_branch(Branch(name=branch, parent=base, parent_step=0, reason="test"))
        return run_stage(self.training(branch, base, cache)).result

    def training(self, branch: str, base: str, cache: str | None = None, until: int = 8) -> TrainSpec:
        return TrainSpec(
            training=self.config.training,
            injection=self.config.injection,
            seed=1,
            sampling_seed=1,
            branch=branch,
            start=base,
            until=until,
            cache=cache,
            control=CONTROL,
            quiet_until=until,
            **self.common,
        )

    def guide(self, base: str, scout: dict, **changes) -> dict:
        spec = GuideSpec(
            training=self.config.training,
            guidance=Guidance(skip_passed=False, samples=8),
            tau_gate=0.6,
            seed=1,
            guides=[scout.end],
            rollback=base,
            segments=[scout.segment],
            **self.common,
        )
        return run_stage(spec.model_copy(update=changes)).result

    def steps(self, result: dict) -> list[dict]:
        segment = self.workspace.timeline.segment(result.segment)
        return read_steps(self.workspace.store, segment).drop_columns(list(TIMINGS)).to_pylist()

    def whole(self) -> SimpleNamespace:
        """Scout, guidance, replay, evaluation and probe."""
        base = self.base()
        scout = self.train("scout", base)
        guided = self.guide(base, scout)
        replay = self.train("replay", base, cache=guided.cache)
        common = {**self.common, "max_completion_tokens": 3}
        scores = run_stage(
            EvaluateSpec(evaluation=self.config.evaluation, snapshots=[base, replay.end], **common)
        ).result.scores
        probe = run_stage(
            ProbeSpec(control=CONTROL, probe=Probe(samples=2), seed=1, snapshot=scout.end, candidates=[base], **common)
        ).result.probe
        return SimpleNamespace(
            base=base,
            cache=guided.cache,
            scout=self.steps(scout),
            replay=self.steps(replay),
            ends=(scout.end, replay.end),
            scores=scores,
            probe=probe,
        )


@pytest.fixture(scope="module")
def summed(config, ground, tmp_path_factory):
    stages = Stages(tmp_path_factory.mktemp("summed") / "run", config, ground, SUM)
    return stages, stages.whole()


def test_a_sum_with_a_function_goes_through_every_stage(summed):
    stages, found = summed
    info = read_info(stages.workspace.guidance(found.cache))
    assert info.reward_names == ["accuracy", "reward"] and info.rows > 0
    ids = [p.id for p in load_problems(stages.common["problems"]).train]
    cache = stages.workspace.open_cache(found.cache, ids, {})
    assert {tuple(round(float(r), 4) for r in row.rewards) for row in cache} == {(1.0, WORTH)}
    assert sum(row["groups_injected"] for row in found.replay) > 0
    for row in found.scout:  # three tokens always, two of them digits unless it is cut off
        assert row["reward"] < row["pass_rate"] and row["verified_timeout"] == row["verified_crash"] == 0
    assert found.probe.q is not None and found.probe.prompts > 0
    assert [score.unverified for score in found.scores] == [0, 0]


def test_the_number_of_workers_changes_nothing(summed, config, ground, tmp_path):
    other = Stages(tmp_path / "run", config, ground, SUM, verifier_workers=1).whole()
    assert vars(other) == vars(summed[1])


def test_workers_and_this_process_train_the_same(summed, config, ground, tmp_path):
    """The exact verifier says of every text what the function says, but for why it is wrong."""
    parts = [Part(name="accuracy", weight=0.9, verifier=ExactVerifier()), *SUM.parts[1:]]
    stages = Stages(tmp_path / "run", config, ground, WeightedVerifier(parts=parts))
    scout = stages.train("scout", stages.base())
    assert scout.end == summed[1].ends[0]
    for row, other in zip(stages.steps(scout), summed[1].scout, strict=True):
        assert {**row, "verified_unparsable": 0} == {**other, "verified_unparsable": 0}


def test_a_function_that_is_not_there_is_refused_before_a_model_is_made(config, ground, tmp_path):
    stages = Stages(tmp_path / "run", config, ground, FunctionVerifier(path="tests.problems.own:gone"))
    with pytest.raises(StageError, match=r"tests.problems.own:gone cannot be imported.*ConfigError") as caught:
        stages.base()
    assert caught.value.exit_code == 64 and not caught.value.retryable
    assert stages.workspace.timeline.snapshots.list() == []


def test_a_verifier_that_hangs_stops_the_stage_and_is_worth_another_try(config, ground, tmp_path):
    stages = Stages(tmp_path / "run", config, ground, FunctionVerifier(path="tests.problems.own:asleep", timeout=0.2))
    with pytest.raises(StageError, match=r"answers could not be verified by tests.problems.own:asleep") as caught:
        stages.train("main", stages.base())
    assert caught.value.exit_code == 69 and caught.value.retryable


def verifying() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "npo_core.problems.worker" in (process.info["cmdline"] or []):
            found.append(process)
    return found


def second_opinion(path: str, **settings) -> Guidance:
    verifier = FunctionVerifier(path=f"tests.problems.own:{path}", **settings)
    how = {"samples": 8, "chunk_prompts": 4, "keep": "closest", "stop_at_first_correct": False}
    return Guidance(skip_passed=False, verifier=verifier, **how)


@pytest.fixture
def scouted(summed, config, ground, tmp_path):
    """Guides a copy of the run that has a scout; `number`: of processes that generate."""
    stages, found = summed
    scout = run_stage(stages.training("scout", found.base)).result

    def guide(number: int, **changes):
        copy = Stages(tmp_path / str(number), config, ground, SUM, generation_processes=number)
        shutil.copytree(stages.workspace.store.local("."), tmp_path / str(number), dirs_exist_ok=True)
        guides = [scout.snapshots[4], scout.end]
        return copy, copy.guide(found.base, scout, guides=guides, **changes)

    return guide


def test_processes_that_generate_verify_with_workers_of_their_own(scouted):
    """Of a ladder: the threads that asked of the first guide are gone when the second is asked."""
    found, before = [], {process.pid for process in verifying()}
    for number in (1, 2):
        stages, result = scouted(number, guidance=second_opinion("even"))
        info = read_info(stages.workspace.guidance(result.cache))
        assert info.rows > 0 and info.refused > 0 and info.reward_names == ["accuracy", "reward"]
        assert [guide.step for guide in info.guides] == [4, 8]
        found.append(result.cache)
    assert found[0] == found[1]
    _, alive = psutil.wait_procs([p for p in verifying() if p.pid not in before], timeout=60)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize(
    ("path", "settings", "code", "words"),
    [
        ("asleep", {"timeout": 0.2}, 69, "answers could not be verified by tests.problems.own:asleep"),
        ("gone", {}, 64, "tests.problems.own:gone cannot be imported"),
    ],
)
def test_what_a_verifier_raises_beside_generation_is_the_stages_error(scouted, path, settings, code, words):
    with pytest.raises(StageError, match=words) as caught:
        scouted(2, guidance=second_opinion(path, **settings))
    assert caught.value.exit_code == code and caught.value.retryable == (code == 69)


def test_a_killed_stage_leaves_no_worker(config, ground, tmp_path, running):
    stages = Stages(
        tmp_path / "run",
        config,
        ground,
        FunctionVerifier(path="tests.problems.own:asleep", timeout=600),
        verifier_workers=3,
    )
    base, before = stages.base(), {process.pid for process in verifying()}
    failed = []

    def train():
        try:
            stages.train("main", base)
        except StageError as error:
            failed.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    deadline = time.monotonic() + 120
    while len(workers := [p for p in verifying() if p.pid not in before]) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(workers) == 3
    for stage in running():
        stage.kill()
    thread.join(timeout=120)
    assert len(failed) == 1 and failed[0].retryable
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
