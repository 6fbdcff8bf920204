"""The probe stage and guidance for the mistake pool alone, on a small watched run through real processes."""

from __future__ import annotations

import shutil
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from npo_core.config import Control, Guidance, Pool, Probe
from npo_core.control.controller import read_pool
from npo_core.control.probe import choose_mistakes
from npo_core.engines.transformers import TransformersEngine
from npo_core.errors import StageError
from npo_core.problems.chain import verify
from npo_core.problems.load import load_problems
from npo_core.seeds import derive_seed
from npo_core.stages.launch import run_stage
from npo_core.stages.specs import BaseSpec, GuideSpec, ProbeSpec, TrainSpec
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch
from npo_core.timeline.segments import read_outcomes
from tests.machines import over_two

CONTROL = Control(pool=Pool(max_pass_rate=0.0))
END = 8


@pytest.fixture(scope="module")
def run(home, config, tmp_path_factory) -> SimpleNamespace:
    """A watched run of 8 updates of 4 prompts, and an unwatched one; snapshots every 4."""
    workspace = Workspace(tmp_path_factory.mktemp("watched"))
    common = {"workspace": workspace.uri, "execution": config.execution, "problems": config.problems}
    base = run_stage(BaseSpec(model=config.model, **common)).result.snapshot
    found = SimpleNamespace(workspace=workspace, config=config, common=common, base=base)
    for branch, control in (("main", CONTROL), ("plain", None)):
        workspace.timeline.add_branch(Branch(name=branch, parent=base, parent_step=0, reason="test"))
        spec = TrainSpec(
            training=config.training,
            injection=config.injection,
            seed=1,
            sampling_seed=1,
            branch=branch,
            start=base,
            until=END,
            control=control,
            quiet_until=END,
            **common,
        )
        setattr(found, branch, run_stage(spec).result)
    return found


def probe_spec(run, snapshot: str | None = None, candidates: list[str] | None = None, **changes) -> ProbeSpec:
    settings = Probe(**{"prompts": 6, "samples": 3, "min_solved": 0.0, "min_prompts": 1, **changes})
    return ProbeSpec(
        control=CONTROL,
        probe=settings,
        max_completion_tokens=run.config.training.max_completion_tokens,
        seed=1,
        snapshot=snapshot or run.main.end,
        candidates=[run.base, run.main.snapshots[4]] if candidates is None else candidates,
        **run.common,
    )


def folder(run, snapshot: str):
    return run.workspace.timeline.snapshots.folder(snapshot, run.workspace.scratch)


def engine(run, snapshot: str) -> TransformersEngine:
    return TransformersEngine(folder(run, snapshot), device="cpu", batch=18)


def test_the_pool_holds_what_the_run_failed(run):
    segment = run.workspace.timeline.segment(run.main.segment)
    rows = read_outcomes(run.workspace.store, segment).to_pylist()
    failed = {row["prompt_id"]: row["step"] for row in rows if row["pass_rate"] == 0.0}
    pool = read_pool(folder(run, run.main.end))
    assert {m.prompt_id: m.step for m in pool.since(0)} == failed and len(failed) > 6
    assert pool.since(4) and len(pool.since(4)) < len(pool.since(0))


def test_estimates_are_those_of_one_rollout_scored_by_every_candidate(run):
    spec = probe_spec(run)
    result = run_stage(spec).result
    found = result.probe
    problems = load_problems(run.config.problems)
    by_id = {problem.id: problem for problem in problems.train}
    pool = read_pool(folder(run, spec.snapshot)).since(0)
    asked = choose_mistakes(pool, 6)
    failed = [by_id[mistake.prompt_id] for mistake in asked]
    policy = engine(run, spec.snapshot)
    answers = policy.generate(failed, samples=3, max_tokens=3, seed=derive_seed("probe", 1, END))
    right = np.array(
        [
            [a.finished and verify(a.text, by_id[m.prompt_id].answer) == "correct" for a in given]
            for m, given in zip(asked, answers, strict=True)
        ]
    )
    assert (found.pool, found.prompts, found.samples) == (len(pool), 6, 3)
    assert found.q == pytest.approx(right.mean())
    assert found.tokens == sum(len(a.token_ids) for given in answers for a in given)
    assert result.cost.tokens_generated == found.tokens
    assert [(c.step, c.delta, c.snapshot) for c in found.candidates] == [(0, 8, run.base), (4, 4, spec.candidates[1])]
    for candidate in found.candidates:
        later = [i for i, mistake in enumerate(asked) if mistake.step > candidate.step]
        assert candidate.prompts == len(later) and candidate.q == pytest.approx(right[later].mean())
        problems = [failed[i] for i in later for _ in range(3)]
        tokens = [a.token_ids for i in later for a in answers[i]]
        log_r = np.concatenate(engine(run, candidate.snapshot).score(problems, tokens)) - np.concatenate(
            policy.score(problems, tokens)
        )
        assert candidate.kl == pytest.approx(-log_r.mean(), rel=1e-3, abs=1e-7)
        assert candidate.kl_k3 == pytest.approx((np.exp(log_r) - 1 - log_r).mean(), rel=1e-3, abs=1e-7)
        assert candidate.kl_k3 > 0 and candidate.length == pytest.approx(np.mean([len(t) for t in tokens]))


def test_a_probe_made_again_is_the_same(run):
    spec = probe_spec(run, prompts=5)
    first = run_stage(spec).result.probe
    shutil.rmtree(run.workspace.store.local(spec.folder))
    assert run_stage(spec).result.probe == first


@pytest.mark.parametrize("batch", [4, 1])
def test_a_probe_dealt_out_among_processes_is_the_same(run, batch):
    """Of 15 completions parts of a batch, and of two."""
    found = []
    for number in (1, 3):
        spec = probe_spec(run, prompts=5, batch=batch, behind=1)
        spec = spec.model_copy(update={"execution": spec.execution.model_copy(update={"generation_processes": number})})
        found.append(run_stage(spec).result.probe)
        shutil.rmtree(run.workspace.store.local(spec.folder))
    assert found[0] == found[1] and found[0].behind and found[0].candidates[0].kl


def test_a_probe_over_two_machines_is_the_same_also_after_one_was_lost(run, second):
    spec, silenced = probe_spec(run, prompts=5, batch=1, behind=1), threading.Event()
    alone = run_stage(spec).result.probe
    shutil.rmtree(run.workspace.store.local(spec.folder))

    def silence(event) -> None:
        if not silenced.is_set():
            second.signal(signal.SIGSTOP)
            silenced.set()

    with pytest.raises(StageError, match="Machine 1 of execution.nodes = 2 was lost") as failed:
        run_stage(over_two(spec, lost_after=5.0), silence)
    assert failed.value.retryable and silenced.is_set()
    second.signal(signal.SIGCONT)
    assert run_stage(over_two(spec)).result.probe == alone


def test_without_candidates_or_failures_nothing_is_generated(run):
    found = run_stage(probe_spec(run, candidates=[])).result.probe
    assert (found.pool, found.prompts, found.q, found.tokens, found.candidates) == (0, 0, None, 0, [])


def test_a_snapshot_that_was_not_watched_is_refused(run):
    with pytest.raises(StageError, match="has no mistake pool") as caught:
        run_stage(probe_spec(run, snapshot=run.plain.end))
    assert caught.value.exit_code == 65 and not caught.value.retryable


def guide(run, rollback: str, pool_only: bool) -> tuple[int, set[str]]:
    """How many prompts guidance was asked for, and those that it found an answer to."""
    spec = GuideSpec(
        training=run.config.training,
        guidance=Guidance(samples=16, skip_passed=False, chunk_prompts=64),
        tau_gate=0.6,
        seed=1,
        guides=[run.main.end],
        rollback=rollback,
        segments=[run.main.segment],
        pool_only=pool_only,
        **run.common,
    )
    result = run_stage(spec).result
    rows = run.workspace.open_cache(result.cache, None, {})
    return result.asked, {row.prompt_id for row in rows}


@pytest.mark.parametrize("since", [0, 4])
def test_guidance_of_the_pool_is_its_slice_and_nothing_else(run, since):
    rollback = run.main.snapshots[4] if since else run.base
    failed = {m.prompt_id for m in read_pool(folder(run, run.main.end)).since(since)}
    asked, solved = guide(run, rollback, pool_only=True)
    assert asked == len(failed) and solved and solved <= failed
    assert guide(run, rollback, pool_only=False)[0] == 4 * (END - since) > asked
