"""Guide, probe and evaluate stages in several processes: the same bits whatever their number, and after a kill."""

from __future__ import annotations

import json
import os
import pickle
import platform
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from operator import methodcaller

import numpy as np
import psutil
import pytest

from npo_core.config import Execution, TracesGuide
from npo_core.engines.base import parts
from npo_core.engines.dealt import DealtEngine, Host, Hosts, Own, start_managers
from npo_core.engines.transformers import TransformersEngine
from npo_core.errors import ConfigError, StageError
from npo_core.problems.load import load_problems
from npo_core.stages.forked import environment
from npo_core.stages.launch import run_stage
from npo_core.stages.processes import generation_processes


def in_processes(spec, number: int):
    """The same stage in so many processes; it is the same work, so it has the same fingerprint."""
    changed = spec.model_copy(update={"execution": spec.execution.model_copy(update={"generation_processes": number})})
    assert changed.fingerprint == spec.fingerprint
    return changed


def asked_of_hosts(run, spec) -> set[int]:
    """The processes that said in the stage's log that they were asked."""
    log = run.workspace.store.read_bytes(f"{spec.folder}/log.txt").decode()
    return {int(line.split()[1]) for line in log.splitlines() if line.startswith("asked ")}


@pytest.fixture
def telling(own_forks, monkeypatch):
    """Hosts say in the log who was asked."""
    ask = Host.ask

    def told(self, request):
        print("asked", os.getpid(), flush=True)
        return ask(self, request)

    own_forks(lambda: monkeypatch.setattr(Host, "ask", told))


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("stage", ["guide", "evaluate"])
def test_the_number_of_processes_changes_no_bit(fresh, reference, telling, stage, number):
    run = fresh(stage)
    spec = in_processes(run.spec(stage), number)
    result = run_stage(spec).result
    assert run.outcome(spec, result) == reference.left[stage]
    assert len(asked_of_hosts(run, spec)) == number


def test_a_process_that_is_killed_fails_the_stage_and_it_goes_on(fresh, reference, own_forks, monkeypatch):
    run = fresh("guide")
    spec, generate = in_processes(run.guide(), 2), TransformersEngine.generate_rounds

    def dies(self, *asked, **how):
        print("asked", os.getpid(), flush=True)
        if len(list(run.folder.glob("stages/guide-*/shards/*.parquet"))) >= 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return generate(self, *asked, **how)

    own_forks(lambda: monkeypatch.setattr(TransformersEngine, "generate_rounds", dies))
    with pytest.raises(StageError, match=r"Process \d of the 2 that generate ended") as failed:
        run_stage(spec)
    assert failed.value.retryable
    committed = {file.name: file.stat().st_mtime_ns for file in run.folder.glob("stages/guide-*/shards/*.parquet")}
    assert len(committed) >= 2
    for pid in asked_of_hosts(run, spec):
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(20)  # it ends with the stage
    own_forks()
    assert run.outcome(spec, run_stage(spec).result) == reference.left["guide"]


def test_completions_that_somebody_wrote_start_no_process(fresh, own_forks, monkeypatch, tmp_path):
    run, file = fresh("guide"), tmp_path / "traces.jsonl"
    rows = [{"prompt": p.prompt, "completion": p.answer} for p in load_problems(run.config.problems).train]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    traces = TracesGuide(kind="traces", path=str(file))
    monkeypatch.setattr(Hosts, "__init__", lambda *_, **__: pytest.fail("processes that nothing asks"))
    own_forks()
    assert run_stage(in_processes(run.guide(outside=traces), 2)).result.rows == len(rows)


@pytest.mark.parametrize("batch", [4, 2])
def test_parts_of_two_processes_are_those_of_one(reference, config, batch):
    """Parts that are no multiple of a prompt's samples, of a batch and more, and a failure told as it is."""
    folder = reference.run.workspace.snapshot_folder(reference.found["base"])
    problems = load_problems(config.problems).train[:7]
    one, asked = TransformersEngine(folder, batch=batch), {"samples": 3, "max_tokens": 3, "seed": 5}
    assert [len(part) for part in parts(21, batch)] == ([4] * 5 + [1] if batch == 4 else [3] * 7)
    hosts = Hosts([None, None], start="spawn", begin=os.getpid)
    try:
        two = DealtEngine(hosts, folder, config.engine, device="cpu", batch=batch)
        drawn = one.generate(problems, **asked)
        assert two.generate(problems, **asked) == drawn
        rows = [(problem, c.token_ids) for problem, given in zip(problems, drawn, strict=True) for c in given]
        scores = [engine.score(*zip(*rows, strict=True)) for engine in (one, two)]
        assert all(np.array_equal(*pair) for pair in zip(*scores, strict=True))
        assert two.generate([], **asked) == [] and two.score([], []) == []
        with pytest.raises(OSError, match="nowhere"):
            DealtEngine(hosts, "/nowhere", config.engine, device="cpu", batch=4).generate(problems, **asked)
    finally:
        hosts.close()


def child() -> subprocess.Popen:
    """A process that ends with the thread that started it, as those of vLLM and of verifiers do."""
    code = f"from npo_core.process import die_with_parent as end; end({os.getpid()}); print(1, flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline()
    return process


def test_what_a_process_starts_does_not_end_with_the_thread_that_asked():
    hosts = Hosts([None], start="fork", begin=os.getpid)
    try:
        own = Own(hosts, child)
        with ThreadPoolExecutor(1) as pool:  # its thread, its connection and the thread that served it end here
            assert pool.submit(hosts.ask, methodcaller("poll"), own).result() is None
        with pytest.raises(subprocess.TimeoutExpired):
            hosts.ask(methodcaller("wait", 2), own)
    finally:
        hosts.close()


def test_a_connection_to_another_machine_says_something_while_a_part_runs():
    """What lies between the two may forget one on which nothing is said."""
    [manager] = start_managers([None], start="fork", begin=os.getpid, address="127.0.0.1", authkey=b"key")
    try:
        (host := manager.Host()).ask(pickle.dumps((os.getpid, ())))
        with socket.socket(fileno=os.dup(host._tls.connection.fileno())) as its:
            assert its.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert its.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
    finally:
        manager.shutdown()


ARENAS = """
import ctypes, sys, threading, numpy
threads = [threading.Thread(target=numpy.ones, args=[100_000]) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
library = ctypes.CDLL(None)
library.fdopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(library.fdopen(1, b"w"))
library.malloc_info(0, file)
library.fclose(file)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other words for it")
def test_threads_of_stages_share_memory(monkeypatch):
    """A model that computes in a thread would wait for the kernel for a seventh of its time."""
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    told = subprocess.run(
        [sys.executable, "-c", ARENAS], env=environment(Execution()), capture_output=True, text=True, check=True
    ).stdout
    assert told.count("<heap nr=") == 1


def test_a_number_of_arenas_that_the_user_set_stays(monkeypatch):
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    assert environment(Execution())["MALLOC_ARENA_MAX"] == "1"
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert environment(Execution())["MALLOC_ARENA_MAX"] == "4"


def test_more_processes_than_gpus_are_refused(config, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    vllm = config.engine.model_copy(update={"kind": "vllm", "tensor_parallel": 2})

    def chosen(number, settings=config.engine, device="cuda"):
        execution = config.execution.model_copy(update={"generation_processes": number})
        return generation_processes(execution, settings, device)

    assert [chosen(None), chosen(None, vllm), chosen(None, device="cpu"), chosen(3, device="cpu")] == [4, 2, 1, 3]
    with pytest.raises(
        ConfigError, match="generation_processes = 3 need 6 GPUs, and this machine has 4: set at most 2"
    ):
        chosen(3, vllm)
    assert chosen(2, vllm) == 2
