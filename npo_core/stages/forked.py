"""Stages forked from a preloaded parent, as whoever asks for them sees it; the other side is `forkserver`."""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from npo_core.config import Execution
from npo_core.names import LOG_FILE, SPEC_FILE
from npo_core.process import PARENT
from npo_core.stages.specs import Spec


def environment(execution: Execution) -> dict[str, str]:
    """The environment of stages: quiet libraries, no telemetry, as many threads as configured.

    By default glibc gives each thread memory of its own and hands large blocks back to the system as they are freed: a
    model that computes in a thread waits for the kernel, which clears the same pages again and again. A number of
    arenas that the user set stays.
    """
    threads = str(execution.threads)
    fixed = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }
    if execution.deterministic:
        fixed["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    found = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Stages keep the folder of whoever starts them, from which relative paths count; no module is taken from it.
    paths = {"PYTHONPATH": os.pathsep.join(found), "PYTHONSAFEPATH": "1"}
    return {"MALLOC_ARENA_MAX": "1", **os.environ, **fixed, **paths}


def forks(execution: Execution) -> bool:
    """Whether stages fork from a preloaded parent: on request, or by default where no accelerator is used."""
    return not accelerated(execution) if execution.start == "auto" else execution.start == "fork"


def accelerated(execution: Execution) -> bool:
    """Whether stages will run on a GPU, as far as can be told without asking it."""
    return execution.device == "cuda" or (execution.device == "auto" and Path("/dev/nvidiactl").exists())


class ForkServer:
    """A preloaded parent process; see `npo_core.stages.forkserver`."""

    def __init__(self, execution: Execution):
        answers, theirs = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "npo_core.stages", "--serve", str(theirs)],
            stdin=subprocess.PIPE,
            stdout=2,  # what libraries print
            pass_fds=[theirs],
            env={**environment(execution), PARENT: str(os.getpid())},
            start_new_session=True,
        )
        os.close(theirs)
        requests = self.process.stdin
        assert requests is not None  # a pipe, as asked for
        self.requests = requests
        self.answers: dict[int, dict[str, int]] = {}
        self.news = threading.Condition()
        self.lock = threading.Lock()
        threading.Thread(target=self._listen, args=[answers], daemon=True).start()

    def _listen(self, answers: int) -> None:
        """Take answers until there are no more; after one that is none, nothing else can be believed."""
        with open(answers, "rb") as lines:
            for line in lines:
                try:
                    fields = json.loads(line)
                    with self.news:
                        self.answers.setdefault(fields.pop("id"), {}).update(fields)
                        self.news.notify_all()
                except (ValueError, KeyError, AttributeError):
                    told = f"The process that forks stages wrote {line[:200]!r}, which is no answer: it is ended."
                    print(told, file=sys.stderr, flush=True)
                    self.process.kill()
                    return

    def start(self, spec: Spec, scratch: Path) -> "Forked":
        """Fork a stage."""
        with self.lock:
            number = len(self.answers)
            self.answers[number] = {}
            request = {
                "id": number,
                "stage": spec.stage,
                "spec": str(scratch / SPEC_FILE),
                "log": str(scratch / LOG_FILE),
            }
            with suppress(BrokenPipeError):
                self.requests.write(json.dumps(request).encode() + b"\n")
                self.requests.flush()
        return Forked(self, number)

    def close(self) -> None:
        """End all stages and the server."""
        with suppress(BrokenPipeError):
            self.requests.close()
        self.process.wait()


class Forked:
    """A stage started by a `ForkServer`."""

    def __init__(self, server: ForkServer, number: int):
        self.server, self.number = server, number

    @property
    def pid(self) -> int:
        """Its process id; 0 until it is forked."""
        return self.server.answers[self.number].get("pid", 0)

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        code = self.server.answers[self.number].get("exit")
        if code is None and self.server.process.poll() is not None:
            return -9  # the server died, and its stages with it
        return code

    def wait(self, timeout: float) -> int:
        """Its exit code, once it ended. Raises subprocess.TimeoutExpired."""
        with self.server.news:
            self.server.news.wait_for(lambda: self.poll() is not None, timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(f"stage {self.number}", timeout)
        return code

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            if self.pid:  # 0 until the server has forked it; a signal to 0 would go to the caller's own group
                os.kill(self.pid, number)


_servers: dict[int, ForkServer] = {}  # by number of threads


def fork_server(execution: Execution) -> ForkServer:
    """The server of this process, started when first asked for; asking early hides the time of its imports."""
    server = _servers.get(execution.threads)
    if server is None or server.process.poll() is not None:
        server = _servers[execution.threads] = ForkServer(execution)
        atexit.register(server.close)
    return server
