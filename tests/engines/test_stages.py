"""Stages that generate with vLLM: the same cache from the same seeds, in this process and in one of its own."""

import shutil
from pathlib import Path

import psutil
import pytest

from benchmarks.common import BenchRun
from npo_core.config import EngineSettings, parse_config
from npo_core.engines.transformers import TransformersEngine
from npo_core.problems.load import load_problems
from npo_core.recipes.run import Run
from npo_core.stages.launch import run_stage
from npo_core.stages.results import Cost, GuideResult
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch
from tests.engines.conftest import MODEL, TASK

STEPS = 4


@pytest.fixture(scope="module")
def ground(vllm_python, tmp_path_factory):
    """A run up to where guidance is generated."""
    values = {
        "problems": TASK.model_dump(),
        "model": MODEL,
        "training": {
            "steps": STEPS,
            "prompts_per_step": 8,
            "group_size": 4,
            "max_completion_tokens": 4,
            "snapshot_every": STEPS,
        },
        "guidance": {"skip_passed": False, "chunk_prompts": 8, "samples": 6},
        "bootstrap": {"scout_steps": STEPS},
        "evaluation": {"every": STEPS, "samples": 2},
        "engine": {"kind": "vllm", "python": vllm_python},
        "execution": {"device": "cpu"},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPO_HOME", str(tmp_path_factory.mktemp("home")))
        made = BenchRun(parse_config(values), tmp_path_factory.mktemp("scout") / "run")
        made.scout = made.train("scout", STEPS)
        made.untouched = shutil.copytree(made.workspace.uri, tmp_path_factory.mktemp("untouched") / "run")
        yield made


@pytest.fixture(autouse=True)
def shared(worker, monkeypatch):
    """Stages in this process ask the vLLM that all tests share."""
    monkeypatch.setattr("npo_core.engines.vllm.worker", lambda settings, device: worker)


def guide(ground: BenchRun) -> GuideResult:
    """The stage's result, if need be after running it; without what it cost."""
    return ground.guide(ground.scout, [STEPS]).model_copy(update={"cost": Cost()})


def test_a_killed_stage_goes_on_to_the_same_cache(ground):
    """Of several chunks two were committed; the others are drawn again, by a vLLM with another past."""
    first = guide(ground)
    assert 0.1 < first.coverage < 1 and first.rows > 5
    (folder,) = Path(ground.workspace.uri).glob("stages/guide-*")
    shards = sorted(folder.glob("shards/*.parquet"))
    assert len(shards) == 4
    for file in (folder / "result.json", *shards[2:]):
        file.unlink()
    assert guide(ground) == first


def test_a_stage_in_a_process_of_its_own(ground, tmp_path):
    """It starts its own vLLM, comes to the same cache, and leaves no process behind."""
    workspace = Workspace(shutil.copytree(ground.untouched, tmp_path / "run"))
    spec = Run(ground.config, workspace).guide(
        guides=[ground.scout.snapshots[STEPS]], rollback=ground.base, segments=[ground.scout.segment]
    )
    before = vllm_processes()
    assert run_stage(spec).result.cache == guide(ground).cache
    assert vllm_processes() == before


def vllm_processes() -> set[int]:
    found = psutil.process_iter(["cmdline"])
    return {p.pid for p in found if any("vllm_worker.py" in part for part in p.info["cmdline"] or [])}


def test_stored_log_probabilities_are_the_trainers_own(ground):
    cache = ground.workspace.open_cache(guide(ground).cache, None, {})
    problems = {problem.id: problem for problem in load_problems(TASK).train}
    engine = TransformersEngine(ground.folder(ground.scout.snapshots[STEPS]), batch=1)
    for row in list(cache)[:5]:
        (own,) = engine.score([problems[row.prompt_id]], [row.token_ids.tolist()])
        assert abs(own - row.logprobs).max() < 1e-5
    assert cache.info.sampling["engine"] == "vllm"


def test_evaluation(ground):
    """Every snapshot is loaded in turn and checked; the rate is that of transformers within its noise."""
    spec = ground.run.evaluate([ground.base, ground.scout.snapshots[STEPS]])
    vllm = ground.stage(spec).scores
    default = ground.stage(spec.model_copy(update={"engine": EngineSettings()})).scores
    assert [score.step for score in vllm] == [0, STEPS]
    for mine, theirs in zip(vllm, default, strict=True):
        noise = (mine.standard_error**2 + theirs.standard_error**2) ** 0.5
        assert abs(mine.pass_rate - theirs.pass_rate) < 4 * noise + 0.01
    assert [s.tokens for s in vllm] != [s.tokens for s in default]  # two engines, two samples


def test_a_probe(ground):
    """One rollout by vLLM; the distances are of the trainer's own models."""
    ground.workspace.timeline.add_branch(Branch(name="watched", parent=ground.base, parent_step=0, reason="test"))
    train = ground.run.train(branch="watched", start=ground.base, until=STEPS, quiet_until=STEPS)
    last = ground.stage(train).end
    result = ground.stage(ground.run.probe(snapshot=last, candidates=[ground.base]))
    (candidate,) = result.probe.candidates
    assert candidate.prompts > 0 and candidate.kl_k3 > 0 and result.cost.tokens_generated > 0
    assert 0 <= result.probe.q <= 1
