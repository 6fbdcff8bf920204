"""The process with vLLM: how it starts, fails and ends. None of this needs vLLM."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from npo_core.config import EngineSettings
from npo_core.engines.vllm import VLLMEngine, VLLMWorker
from npo_core.errors import ConfigError, DeviceError


def gone(pid: int, seconds: float = 60.0) -> bool:
    """Whether a process ends within some seconds; one that nobody has waited for has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def bare():
    """A worker in this interpreter, which has no vLLM."""
    process = VLLMWorker(EngineSettings(kind="vllm"), "cpu")
    yield process
    process.close()


def test_an_interpreter_that_is_none(tmp_path):
    with pytest.raises(ConfigError, match=f"engine.python = {tmp_path}/python cannot be started .*has vLLM"):
        VLLMWorker(EngineSettings(kind="vllm", python=f"{tmp_path}/python"), "cpu")


def test_an_interpreter_without_vllm(models, problems, bare):
    with pytest.raises(ConfigError, match="has no vLLM that works .*No module named 'vllm'.*set engine.python"):
        VLLMEngine(models["a"], bare).generate(problems.train[:1], samples=1, max_tokens=2, seed=1)


def test_a_worker_that_was_killed(models, problems, bare):
    os.kill(bare.process.pid, signal.SIGKILL)
    with pytest.raises(DeviceError, match=f"exit code -9.*should load {models['a']}") as caught:
        VLLMEngine(models["a"], bare).generate(problems.train[:1], samples=1, max_tokens=2, seed=1)
    assert caught.value.retryable


def test_it_ends_with_its_object(bare):
    pid = bare.process.pid
    assert not gone(pid, seconds=0.3)
    bare.close()
    assert gone(pid)


def test_it_ends_with_its_parent_also_by_kill_9():
    script = (
        "from npo_core.config import EngineSettings\n"
        "from npo_core.engines.vllm import VLLMWorker\n"
        "import time\n"
        "worker = VLLMWorker(EngineSettings(kind='vllm'), 'cpu')\n"
        "worker.connection.send(('generate', [], 1, 1, [], [], False))\n"
        "worker.connection.recv()\n"
        "print(worker.process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert not gone(pid, seconds=0.3)
    parent.kill()
    parent.wait()
    assert gone(pid)
