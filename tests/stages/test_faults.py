"""Stages that are killed, stopped, starved of disk or fed damaged files.

They end with a sentence and leave no process, and the same again brings about exactly what an undisturbed run does.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import psutil
import pytest
import torch

from npo_core.errors import DeviceError, DivergedError, NPOError, StageError
from npo_core.names import EVENTS_FILE, LOG_FILE, RESULT_FILE
from npo_core.stages import evaluate, forked, launch
from npo_core.stages.context import StageContext, scratch_folder
from npo_core.stages.launch import run_stage
from npo_core.timeline.segments import read_marks

STAGES = ("guide", "train", "evaluate")
ROOT = Path(__file__).parents[2]


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        process.kill()


def gone(processes: list[psutil.Process], seconds: float = 60.0) -> bool:
    """Whether all of them end in time (by themselves: nothing is killed here)."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def kill_at_event(number: int, running: Callable) -> Callable[[dict], None]:
    """A watcher that kills the stage when it hears of its `number`-th event."""
    heard = []

    def watch(event: dict) -> None:
        heard.append(event)
        if len(heard) == number:
            kill(running())

    return watch


def finish(run, spec, lives, running) -> tuple[dict, int]:
    """Run a stage through `lives` (each a function that runs it and kills it), then to its end; result and deaths."""
    deaths = 0
    for live in lives:
        try:
            live()
        except StageError as error:
            assert error.retryable
            assert error.exit_code == -signal.SIGKILL
            assert "killed by signal 9" in str(error)
            deaths += 1
        assert not running()
    return run_stage(spec).result, deaths


# --- killed stages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_events(reference, fresh, running, stage):
    run = fresh(stage)
    spec = run.spec(stage)
    lives = [lambda n=n: run_stage(spec, kill_at_event(n, running)) for n in (1, 1, 2, 2)]
    result, deaths = finish(run, spec, lives, running)
    assert run.outcome(spec, result) == reference.left[stage]
    assert deaths >= (2 if stage == "train" else 0)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_any_time(reference, fresh, running, stage, seed):
    run = fresh(stage)
    spec, moments = run.spec(stage), random.Random(f"{stage} {seed}")
    longest = {"train": 0.6, "guide": 0.15, "evaluate": 0.12}[stage]

    def live() -> None:
        timer = threading.Timer(moments.uniform(0.02, longest), lambda: kill(running()))
        timer.start()
        try:
            run_stage(spec)
        finally:
            timer.cancel()
            timer.join()

    result, _ = finish(run, spec, [live] * 6, running)
    assert run.outcome(spec, result) == reference.left[stage]


def die_at_commit(number: int, moment: str) -> None:
    """Kill this process before or after the `number`-th time that a file or folder gets its final name."""
    done = count(1)

    def deadly(original: Callable) -> Callable:
        def call(*args, **kwargs):
            if moment == "before" and next(done) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **kwargs)
            if moment == "after" and next(done) == number:  # what failed is no commit
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in ("rename", "replace", "link"):
        setattr(os, name, deadly(getattr(os, name)))


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("stage", STAGES)
def test_killed_around_every_commit(reference, fresh, own_forks, stage, moment):
    """The i-th life ends at its i-th commit, until one life has fewer commits than that: every gap is hit."""
    run = fresh(stage)
    spec = run.spec(stage)
    for life in count(1):
        own_forks(lambda life=life: die_at_commit(life, moment))
        try:
            result = run_stage(spec).result
            break
        except StageError as error:
            assert (error.exit_code, error.retryable) == (-signal.SIGKILL, True)
    assert life > 4
    assert run.outcome(spec, result) == reference.left[stage]


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_done_is_not_done_again(reference, fresh, config, stage):
    run = fresh(stage)
    spec = run.spec(stage)
    first = run_stage(spec)
    server = forked.fork_server(config.execution)
    asked, file = len(server.answers), run.workspace.store.local(f"{spec.folder}/{RESULT_FILE}")
    before = (file.stat().st_mtime_ns, file.read_bytes())
    again = run_stage(spec, lambda event: pytest.fail("a finished stage has no events"))
    assert (first.reused, again.reused) == (False, True)
    assert again.result == first.result
    assert len(server.answers) == asked
    assert (file.stat().st_mtime_ns, file.read_bytes()) == before


def test_a_guide_does_not_repeat_what_it_committed(reference, fresh, running):
    run = fresh("guide")
    spec = run.guide()
    with pytest.raises(StageError):
        run_stage(spec, kill_at_event(1, running))
    shards = run.workspace.store.local(f"{spec.folder}/shards")
    there = {path.name: path.stat().st_mtime_ns for path in shards.glob("0*.parquet")}
    assert there
    run_stage(spec)
    assert {name: (shards / name).stat().st_mtime_ns for name in there} == there


def test_training_goes_on_from_its_newest_snapshot(fresh, running):
    run = fresh("train")
    spec, heard = run.guided(), []

    def kill_after_two_marks(event: dict) -> None:
        if len(read_marks(run.workspace.store, spec.fingerprint)) >= 2:
            kill(running())

    with pytest.raises(StageError):
        run_stage(spec, kill_after_two_marks)
    marks = read_marks(run.workspace.store, spec.fingerprint)
    kept = run.folder / "segments" / spec.fingerprint / f"steps-{marks[0].step:06d}.parquet"
    written = kept.stat().st_mtime_ns
    run_stage(spec, heard.append)
    assert heard[0]["step"] == marks[-1].step + 1
    assert kept.stat().st_mtime_ns == written


def test_no_snapshot_is_evaluated_twice(reference, fresh, own_forks):
    """Records that are there are taken as they are: by another list of snapshots, too."""
    run = fresh("evaluate")
    own_forks()
    few = run.evaluate(snapshots=run.found["evaluated"][:3])
    run_stage(few)
    records = run.folder / "evaluations" / few.protocol
    there = {path.name: path.stat().st_mtime_ns for path in records.iterdir()}
    assert len(there) == 3
    result = run_stage(run.evaluate()).result
    assert {name: (records / name).stat().st_mtime_ns for name in there} == there
    assert run.outcome(run.evaluate(), result) == reference.left["evaluate"]
    assert run_stage(run.evaluate(snapshots=[])).result.scores == []


# --- parents and clients -------------------------------------------------------------------------------------------


def test_the_fork_server_is_killed(reference, fresh, running, config):
    """Its stages end with it; the next start has a new server and goes on."""
    run = fresh("train")
    spec, stages = run.guided(), []
    server = forked.fork_server(config.execution)

    def watch(event: dict) -> None:
        if not stages:
            stages.extend(running())
            server.process.kill()

    with pytest.raises(StageError) as caught:
        run_stage(spec, watch)
    assert caught.value.retryable
    assert len(stages) == 1
    assert gone(stages)
    result = run_stage(spec).result
    assert forked.fork_server(config.execution) is not server
    assert run.outcome(spec, result) == reference.left["train"]


CLIENT = """
import sys
from npo_core.stages.launch import run_stage
from npo_core.stages.specs import SPECS
name, text = sys.argv[1:]
run_stage(SPECS[name].model_validate_json(text), lambda event: print(event, flush=True))
"""


def client(spec) -> subprocess.Popen:
    """Another process that runs a stage and prints its events."""
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, spec.stage, spec.model_dump_json()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def family(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_the_client_is_killed(reference, fresh):
    """Neither the stage nor the server it came from outlive who asked for it."""
    run = fresh("train")
    asking = client(run.guided())
    assert asking.stdout.readline().startswith(b"{")
    others = family(asking)
    assert len(others) == 2  # the server and the stage
    asking.kill()
    asking.wait()
    assert gone(others)
    assert run.outcome(run.guided(), run_stage(run.guided()).result) == reference.left["train"]


@pytest.mark.parametrize("moment", [0.0, 0.1, 1.0])
def test_the_client_is_killed_while_a_spawned_stage_starts(fresh, moment):
    """A new interpreter takes a while until it can watch for its parent's end; dying then must not leave an orphan."""
    run = fresh("train")
    spec = run.guided(execution=run.config.execution.model_copy(update={"start": "spawn"}))
    asking = client(spec)
    while not (others := family(asking)):
        assert asking.poll() is None
        time.sleep(0.005)
    time.sleep(moment)
    asking.kill()
    asking.wait()
    try:
        assert gone(others)
    finally:
        kill([process for process in others if process.is_running()])


def test_an_interrupted_wait_ends_the_stage(fresh, running):
    run = fresh("train")
    stages = []

    def watch(event: dict) -> None:
        stages.extend(running())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(run.guided(), watch)
    assert len(stages) == 1
    assert gone(stages)


class SlowServer:
    """A fork server that answers only after some polls, or never; its stage ends when it is sent a signal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, polls: float):
        self.answers, self.process, self.polls, self.sent = {0: {}}, self, polls, []
        monkeypatch.setattr(os, "kill", self.take)
        monkeypatch.setattr(launch, "POLL", 0.001)

    def poll(self) -> None:
        self.polls -= 1
        if self.polls <= 0:
            self.answers[0]["pid"] = 4242

    def take(self, pid: int, number: int) -> None:
        self.sent.append((pid, number))
        self.answers[0]["exit"] = -number


def test_a_stage_that_has_no_process_yet_is_ended_once_it_has_one(monkeypatch):
    server = SlowServer(monkeypatch, polls=4)
    launch.end(forked.Forked(server, 0))
    assert server.sent == [(4242, signal.SIGTERM)]


def test_a_stage_that_never_gets_a_process_costs_the_caller_nothing(monkeypatch):
    """A signal to process 0 would go to whoever called, and all of its group."""
    server, clock = SlowServer(monkeypatch, polls=float("inf")), count(1)
    monkeypatch.setattr(launch.time, "monotonic", lambda: float(next(clock)))
    launch.end(forked.Forked(server, 0))
    assert server.sent == []


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_the_end_of_a_stage_is_noticed_at_once(fresh, monkeypatch, how):
    monkeypatch.setattr(launch, "POLL", 600.0)
    run = fresh("train")
    begun = time.monotonic()
    run_stage(run.guided(execution=run.config.execution.model_copy(update={"start": how})))
    assert time.monotonic() - begun < 500


# --- the stop file -------------------------------------------------------------------------------------------------


def slow_down(seconds: float) -> None:
    """Every step of this process takes longer, so that it does not end before it sees the stop file."""
    original = StageContext.progress

    def progress(self, *arguments, **figures) -> None:
        original(self, *arguments, **figures)
        time.sleep(seconds)

    StageContext.progress = progress


def test_the_stop_file_ends_a_stage_and_names_itself(reference, fresh, own_forks):
    run = fresh("train")
    spec, stop, forks = run.guided(), run.folder / "stop", own_forks(lambda: slow_down(1.0))
    with pytest.raises(StageError, match=str(stop)) as caught:
        run_stage(spec, lambda event: stop.touch())
    assert (caught.value.exit_code, caught.value.retryable) == (143, False)
    with pytest.raises(StageError, match=str(stop)):
        run_stage(spec, lambda event: pytest.fail("nothing starts beside a stop file"))
    assert forks.started == 1
    stop.unlink()
    own_forks()
    assert run.outcome(spec, run_stage(spec).result) == reference.left["train"]


def test_the_stop_file_is_seen_after_the_store_failed_to_answer(fresh, own_forks, monkeypatch):
    run = fresh("evaluate")
    threading.Timer(0.3, lambda: (run.folder / "stop").touch()).start()

    def change() -> None:
        from npo_core.errors import StorageError
        from npo_core.timeline import Store

        original, asked = Store.exists, count(1)

        def exists(self, rel: str) -> bool:
            if rel == "stop" and next(asked) <= 2:
                raise StorageError("not reachable")
            return original(self, rel)

        Store.exists = exists
        evaluate.run = lambda spec, context: time.sleep(600)

    own_forks(change)
    begun = time.monotonic()
    with pytest.raises(StageError, match="stop") as caught:
        run_stage(run.evaluate())
    assert caught.value.exit_code == 143
    assert time.monotonic() - begun < 500


# --- damaged and foreign inputs ------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def nothing_was_trained(run, spec) -> bool:
    events = scratch_folder(run.workspace, spec) / EVENTS_FILE
    return not events.exists() and not read_marks(run.workspace.store, spec.fingerprint)


@pytest.mark.parametrize("harm", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "tokenizer.json"])
def test_a_damaged_snapshot_is_named_before_training(fresh, own_forks, name, harm):
    run = fresh("train")
    start = run.found["snapshots"][4]
    spec = run.train("scout", start=start, until=8)
    file = run.folder / "snapshots" / start / name
    harm(file)
    own_forks()
    with pytest.raises(StageError) as caught:
        run_stage(spec)
    assert (caught.value.exit_code, caught.value.retryable) == (66, False)
    assert str(file) in str(caught.value)
    assert f"Delete {file.parent}" in str(caught.value)
    assert nothing_was_trained(run, spec)


def test_a_damaged_snapshot_is_not_evaluated_and_does_not_guide(fresh, own_forks):
    run = fresh("evaluate")
    file = run.folder / "snapshots" / run.found["guides"][0] / "model.safetensors"
    flip(file)
    own_forks()
    for spec in (run.evaluate(), run.guide(seed=2)):
        with pytest.raises(StageError, match="model.safetensors is damaged") as caught:
            run_stage(spec)
        assert caught.value.exit_code == 66


def rewrite(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("field", "value"),
    [("tokenizer", "00aa"), ("model", "00bb"), ("problems", "00cc"), ("reward_names", ["accuracy", "style"])],
)
def test_a_cache_made_for_something_else_is_refused(fresh, own_forks, field, value):
    run = fresh("train")
    spec = run.guided()
    rewrite(run.folder / "guidance" / spec.cache / "cache.json", **{field: value})
    own_forks()
    with pytest.raises(StageError, match=f"was made for {field} ") as caught:
        run_stage(spec)
    assert (caught.value.exit_code, caught.value.retryable) == (65, False)
    assert "DataError" in str(caught.value)
    assert nothing_was_trained(run, spec)


def test_a_cache_that_is_not_there_is_refused(fresh, own_forks):
    run = fresh("train")
    own_forks()
    with pytest.raises(StageError, match="no complete guidance cache") as caught:
        run_stage(run.guided(cache="0000"))
    assert caught.value.exit_code == 65


@pytest.mark.parametrize("harm", [truncate, Path.unlink])
def test_a_damaged_cache_is_named_before_training(fresh, own_forks, harm):
    run = fresh("train")
    spec = run.guided()
    part = next((run.folder / "guidance" / spec.cache).glob("part-*.parquet"))
    harm(part)
    own_forks()
    with pytest.raises(StageError, match=part.name) as caught:
        run_stage(spec)
    assert (caught.value.exit_code, caught.value.retryable) == (66, False)
    assert "DamagedError" in str(caught.value)
    assert nothing_was_trained(run, spec)


def test_a_damaged_shard_is_named(fresh, running, own_forks):
    run = fresh("guide")
    spec = run.guide()
    with pytest.raises(StageError):
        run_stage(spec, kill_at_event(1, running))
    shard = next(run.workspace.store.local(f"{spec.folder}/shards").glob("0*.parquet"))
    truncate(shard)
    own_forks()
    with pytest.raises(StageError, match=f"shards/{shard.name}") as caught:
        run_stage(spec)
    assert caught.value.exit_code == 66


# --- a full disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 24 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        shutil.which("mount")
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Fill the disk up to `leave` bytes, by a file that is to be removed."""
    ballast = folder / "ballast"
    usage = os.statvfs(folder)
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, usage.f_bavail * usage.f_frsize - leave)
    return ballast


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_said_and_is_no_loss(reference, fresh, own_forks, small_disk, stage):
    """The disk is full at the start, within the first files, and later; each time more is free than the time before."""
    run = fresh(stage, small_disk / "run")
    spec = run.spec(stage)
    own_forks()
    seen = 0
    for leave in (0, 4096, 8192, 16384, 65536, 131072, 262144, 524288, 1048576):
        ballast = fill(small_disk, leave)
        try:
            run_stage(spec)
        except NPOError as error:
            assert error.retryable, str(error)
            assert error.exit_code == 73
            assert "full" in str(error) or "StorageError" in str(error)
            seen += 1
        finally:
            ballast.unlink()
    assert seen >= 3
    assert run.outcome(spec, run_stage(spec).result) == reference.left[stage]


def test_a_full_disk_while_parts_are_written(reference, fresh, own_forks):
    """Where nothing can be mounted: every write of metrics fails from the third on, then none."""
    run = fresh("train")

    def refuse() -> None:
        from npo_core.timeline import disk

        original, turns = disk.write_atomic, count(1)

        def write(path: Path, data: bytes) -> None:
            if next(turns) > 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            original(path, data)

        disk.write_atomic = write

    own_forks(refuse)
    with pytest.raises(StageError, match="full") as caught:
        run_stage(run.guided())
    assert (caught.value.exit_code, caught.value.retryable) == (73, True)
    own_forks()
    assert run.outcome(run.guided(), run_stage(run.guided()).result) == reference.left["train"]


# --- what goes wrong, and its code ---------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable:
    def run(spec, context: StageContext) -> dict:
        raise error

    return run


def too_large(spec, context: StageContext) -> dict:
    return {"never": torch.empty(1 << 56)}


ERRORS = {
    "diverged": (raising(DivergedError("lower training.learning_rate")), 67, False, "lower training.learning_rate"),
    "memory of the accelerator": (
        raising(torch.OutOfMemoryError("CUDA out of memory. Tried")),
        71,
        False,
        "micro_batch",
    ),
    "memory": (raising(MemoryError()), 71, False, "micro_batch"),
    "memory, as torch says it": (too_large, 71, False, "micro_batch"),
    "full disk": (raising(OSError(errno.ENOSPC, "No space left on device")), 73, True, "full"),
    "full disk, as torch says it": (
        raising(RuntimeError("PytorchStreamWriter failed writing file data/0")),
        73,
        True,
        "full",
    ),
    "accelerator": (raising(torch.AcceleratorError("CUDA error: an illegal access")), 74, True, "illegal access"),
    "device": (raising(DeviceError("gone")), 74, True, "gone"),
    "a mistake in the code": (raising(ZeroDivisionError("division by zero")), 70, False, "division by zero"),
    "an interrupt": (raising(KeyboardInterrupt()), 70, False, "KeyboardInterrupt"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_have_a_code_and_a_sentence(fresh, own_forks, name):
    function, code, retryable, words = ERRORS[name]
    run = fresh("evaluate")
    own_forks(lambda: setattr(evaluate, "run", function))
    spec = run.evaluate()
    with pytest.raises(StageError, match=words) as caught:
        run_stage(spec)
    assert (caught.value.exit_code, caught.value.retryable) == (code, retryable)
    log = run.folder / spec.folder / LOG_FILE
    assert f"log: {log}" in str(caught.value)
    assert "Traceback" in log.read_text()
    assert not (run.folder / spec.folder / RESULT_FILE).exists()


@pytest.mark.parametrize(
    ("end", "code", "retryable"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGTERM), -15, True),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -9, True),
        (lambda: os.kill(os.getpid(), signal.SIGABRT), -6, True),
        (lambda: os._exit(9), 9, False),
        (lambda: os._exit(0), 0, False),
    ],
    ids=["SIGTERM", "SIGKILL", "SIGABRT", "exit 9", "exit 0"],
)
def test_ends_without_a_word(fresh, own_forks, end, code, retryable):
    run = fresh("evaluate")
    own_forks(lambda: setattr(evaluate, "run", lambda spec, context: end()))
    with pytest.raises(StageError, match="before it had a result") as caught:
        run_stage(run.evaluate())
    assert (caught.value.exit_code, caught.value.retryable) == (code, retryable)


@pytest.mark.timeout(60)
def test_a_stage_that_was_killed_at_a_progress_bar_holds_up_no_other(reference, fresh, own_forks, monkeypatch):
    """tqdm's own lock is shared by forks of a process; a killed one never releases it."""
    from tqdm.std import TqdmDefaultWriteLock, tqdm

    shared = multiprocessing.RLock()
    monkeypatch.setattr(TqdmDefaultWriteLock, "mp_lock", shared, raising=False)
    monkeypatch.setattr(tqdm, "_lock", TqdmDefaultWriteLock())
    killed = os.fork()
    if killed == 0:
        tqdm.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    assert not shared.acquire(timeout=0)  # it is held for good
    run = fresh("train")
    own_forks()
    assert run.outcome(run.spec("train"), run_stage(run.spec("train")).result) == reference.left["train"]


def test_an_old_error_is_not_told_again(fresh, own_forks):
    run = fresh("evaluate")
    own_forks(lambda: setattr(evaluate, "run", raising(DivergedError("first"))))
    with pytest.raises(StageError, match="first"):
        run_stage(run.evaluate())
    own_forks(lambda: setattr(evaluate, "run", lambda spec, context: os._exit(9)))
    with pytest.raises(StageError, match="exit code 9"):
        run_stage(run.evaluate())


def test_a_learning_rate_that_destroys_the_policy_is_not_tried_again(fresh, own_forks):
    run = fresh("train")
    own_forks()
    wild = run.config.training.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(StageError, match=r"training\.learning_rate") as caught:
        run_stage(run.guided(training=wild))
    assert (caught.value.exit_code, caught.value.retryable) == (67, False)


def test_the_result_of_another_stage_is_refused(fresh, own_forks):
    run = fresh("evaluate")
    own_forks()
    run_stage(run.evaluate())
    rewrite(run.folder / run.evaluate().folder / RESULT_FILE, fingerprint="0000")
    with pytest.raises(NPOError, match=RESULT_FILE) as caught:
        run_stage(run.evaluate())
    assert not caught.value.retryable
