"""The process with vLLM: how it starts, fails and ends. None of this needs vLLM."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from npo_core.config import EngineSettings
from npo_core.engines.vllm import VLLMEngine, VLLMWorker
from npo_core.engines.vllm_worker import Server
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


def test_requests_share_vllms_batch_and_each_is_answered_when_it_is_done(monkeypatch):
    """A short request joins a long one that is under way, and does not wait for its end."""
    made = {"SamplingParams": lambda **how: SimpleNamespace(**how), "TokensPrompt": lambda **prompt: prompt}
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(**made))
    server = Server()
    server.llm = Stub()
    server.generate(0, [([1], [], 7), ([2], [], 8)], 1, 5, [0], [], False)
    assert server.step() == []
    server.generate(1, [([3], [], 9)], 1, 2, [0], [], False)
    answers = [server.step() for _ in range(4)]
    assert [[number for number, _ in found] for found in answers] == [[], [1], [], [0]]
    assert answers[3][0][1] == [([1], [([4] * 5, None)]), ([2], [([4] * 5, None)])]
    assert server.llm.batches == [2, 3, 3, 2, 2] and not server.asked and not server.ended


class Stub:
    """A model that writes the token 4 until a completion has its length; and how many rows each pass had."""

    def __init__(self):
        self.llm_engine, self.rows, self.batches, self.known = self, {}, [], 0

    def enqueue(self, prompts, settings, use_tqdm):
        names = [str(self.known + i) for i in range(len(prompts))]
        self.known += len(prompts)
        self.rows |= {
            name: (prompt["prompt_token_ids"], how.max_tokens, [])
            for name, prompt, how in zip(names, prompts, settings, strict=True)
        }
        return [f"{name}-a1b2" for name in names]

    def step(self):
        self.batches.append(len(self.rows))
        for _, _, written in self.rows.values():
            written.append(4)
        done = [name for name, (_, most, written) in self.rows.items() if len(written) == most]
        ended = {name: self.rows.pop(name) for name in done}
        return [
            SimpleNamespace(
                request_id=name,
                finished=True,
                prompt_token_ids=prompt,
                outputs=[SimpleNamespace(index=0, token_ids=written, logprobs=None)],
            )
            for name, (prompt, _, written) in ended.items()
        ]


def test_it_ends_with_its_object(bare):
    pid = bare.process.pid
    assert not gone(pid, seconds=0.3)
    bare.close()
    assert gone(pid)


def test_it_ends_with_its_parent_also_by_kill_9():
    script = (
        "from npo_core.config import EngineSettings\n"
        "from npo_core.engines.vllm import VLLMWorker\n"
        "from npo_core.errors import ConfigError\n"
        "from contextlib import suppress\n"
        "import time\n"
        "worker = VLLMWorker(EngineSettings(kind='vllm'), 'cpu')\n"
        "with suppress(ConfigError):\n"
        "    worker.generate([], samples=1, max_tokens=1, eos_ids=[], logprobs=False)\n"
        "print(worker.process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert not gone(pid, seconds=0.3)
    parent.kill()
    parent.wait()
    assert gone(pid)
