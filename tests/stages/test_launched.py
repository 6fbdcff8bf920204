"""A training stage of two processes, forked or under `accelerate launch`: killed, stopped, failing, as one would do."""

from __future__ import annotations

import json
import signal

import psutil
import pytest

from npo_core.errors import ConfigError, DataError, StageError
from npo_core.stages.launch import run_stage
from npo_core.stages.processes import LostProcess, check_devices, described, first_failure
from npo_core.timeline.segments import read_marks
from tests.stages.test_faults import gone


def in_two(run, start: str = "fork"):
    """The guided segment of a run, in two processes, forked or (`spawn`) in new interpreters."""
    return run.guided(execution=run.config.execution.model_copy(update={"processes": 2, "start": start}))


def family(launcher: psutil.Process) -> dict[str, psutil.Process]:
    """The stage's process, which starts the others, and these by rank: the agent starts them in turn."""
    ranks = sorted(launcher.children(), key=lambda child: (child.create_time(), child.pid))
    return {"launcher": launcher} | {str(rank): child for rank, child in enumerate(ranks)}


def assert_same_tokens(run, spec, result, reference) -> None:
    left, expected = run.outcome(spec, result), reference.left["train"]
    assert left["outcomes"] == expected["outcomes"]
    assert [row["loss"] for row in left["steps"]] == pytest.approx([row["loss"] for row in expected["steps"]], abs=1e-5)


@pytest.mark.parametrize("victim", ["1", "launcher"])
def test_killed(reference, fresh, running, victim):
    """One of two processes, or who started them; then one process alone goes on from what they committed."""
    run = fresh("train")
    started = []

    def watch(event: dict) -> None:
        if not started:
            processes = family(*running())
            started.extend(processes.values())
            processes[victim].kill()

    with pytest.raises(StageError, match="signal 9") as caught:
        run_stage(in_two(run), watch)
    assert caught.value.retryable and len(started) == 3
    assert victim == "launcher" or f"Process {victim} of 2 was killed" in str(caught.value)
    assert gone(started)
    alone = run.guided()
    result = run_stage(alone).result
    assert {mark.processes for mark in read_marks(run.workspace.store, result.segment)} <= {1, 2}
    assert_same_tokens(run, alone, result, reference)


def test_stopped_and_gone_on(reference, fresh, running):
    run = fresh("train")
    stop, started = run.folder / "stop", []

    def watch(event: dict) -> None:
        if not started:  # later on they end one by one
            started.extend(family(*running()).values())
            stop.touch()

    with pytest.raises(StageError) as caught:
        run_stage(in_two(run), watch)
    assert caught.value.exit_code == 143 and not caught.value.retryable
    assert gone(started)
    stop.unlink()
    result = run_stage(in_two(run, "spawn")).result  # as on GPUs
    assert {mark.processes for mark in read_marks(run.workspace.store, result.segment)} == {2}
    assert_same_tokens(run, in_two(run, "spawn"), result, reference)


def test_an_error_is_told_once(fresh, running):
    run = fresh("train")
    (weights,) = run.folder.glob(f"snapshots/{run.found['base']}/*.safetensors")
    weights.write_bytes(b"")
    with pytest.raises(StageError) as caught:
        run_stage(in_two(run, "spawn"))
    assert (caught.value.exit_code, caught.value.retryable) == (66, False)
    assert "is damaged: expected" in str(caught.value) and "(DamagedError" in str(caught.value)
    assert not running()


LOST, DATA = LostProcess("The connection broke."), DataError("The cache is another's.")


@pytest.mark.parametrize(
    ("errors", "codes", "kind"),
    [
        ({0: LOST, 1: DATA}, {0: 74, 1: 65}, "DataError"),
        ({0: DATA, 1: LOST}, {1: 74}, "DataError"),
        ({0: LOST}, {0: 74, 1: -signal.SIGKILL}, "DeviceError"),
        ({}, {0: -signal.SIGTERM, 1: -signal.SIGKILL}, "DeviceError"),
        ({1: DATA}, {0: -signal.SIGABRT, 1: 65}, "DataError"),
        ({0: LOST, 1: LOST}, {0: 74, 1: 74}, "LostProcess"),
        ({1: LOST}, {0: -signal.SIGKILL, 1: 75}, "DeviceError"),
    ],
)
def test_the_failure_that_came_first_is_told(tmp_path, errors, codes, kind):
    for rank, error in errors.items():
        (tmp_path / f"error-{rank}.json").write_text(json.dumps(described(error)))
    failure = first_failure(tmp_path, 2, codes)
    assert failure["kind"] == kind
    assert kind != "DeviceError" or "of 2 was killed by signal 9" in failure["message"]


@pytest.mark.parametrize("other", [74, 75, -signal.SIGTERM])
def test_a_lost_lease_is_no_lost_process(tmp_path, other):
    """Who finds the workspace another's ends without a word, with a code after which nothing is tried again."""
    if other == 74:
        (tmp_path / "error-1.json").write_text(json.dumps(described(LOST)))
    assert first_failure(tmp_path, 2, {0: 75, 1: other}) == {"exit_code": 75}


def test_each_process_needs_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    check_devices(4, "cuda")
    check_devices(8, "cpu")
    check_devices(8, "cuda", machines=2)
    with pytest.raises(ConfigError, match="execution.processes = 8, but this machine has 4 GPUs"):
        check_devices(8, "cuda")
    with pytest.raises(ConfigError, match="processes = 16 on execution.nodes = 2, but this machine has 4 GPUs"):
        check_devices(16, "cuda", machines=2)
