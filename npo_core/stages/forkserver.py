"""A parent that has imported torch, transformers and trl once and forks stages, so that a stage starts at once.

One JSON object a line: requests on standard input `{"id", "stage", "spec", "log"}`, answers to a descriptor of
their own `{"id", "pid"}` and later `{"id", "exit"}` (negative: the signal that killed it), so that nothing a library
prints is among them. The end of standard input, which the death of whoever asked brings about, ends all stages. Nothing
here may touch an accelerator: its state does not fork.
"""

import gc
import importlib
import json
import os
import selectors
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from npo_core.errors import NPOError
from npo_core.process import PARENT, end_if_orphaned

PRELOADED = (
    "npo_core.stages.train",
    "npo_core.stages.guide",
    "npo_core.stages.probe",
    "npo_core.stages.evaluate",
    "npo_core.stages.base",
    "npo_core.training.build",
    "npo_core.training.recorder",
    "npo_core.models.built_in",
    "npo_core.models.identity",
    "npo_core.engines.transformers",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.models.auto",
)
GRACE = 5.0  # seconds between SIGTERM and SIGKILL
LOOK = 0.5  # seconds between looks at the parent while libraries are imported


def serve(answers: int) -> None:
    """Preload, then fork a stage for every request until standard input ends, or the parent does.

    Args:
        answers: the descriptor that answers are written to.
    """
    parent = int(os.environ.get(PARENT, os.getppid()))
    os.set_inheritable(answers, False)  # to what a library starts while it is imported
    preload(parent)
    gc.freeze()  # collections in a stage would visit, and so copy, all that was imported here
    wakeup, notify = os.pipe()
    os.set_blocking(notify, False)
    signal.set_wakeup_fd(notify)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
    selector.register(wakeup, selectors.EVENT_READ)
    children: dict[int, int] = {}  # pid -> request id
    rest = b""
    while True:
        for key, _ in selector.select():
            data = os.read(key.fd, 65536)
            if key.fd == wakeup:
                reap(children, answers)
            elif not data:
                return end(children)
            else:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    start(json.loads(line), children, answers)


def preload(parent: int) -> None:
    """Import what stages need, which takes seconds, and end meanwhile where the parent does.

    By an alarm, for the kernel would kill this process with the thread that started it, and a thread here would not
    fork.
    """
    signal.signal(signal.SIGALRM, lambda *_: end_if_orphaned(parent))
    signal.setitimer(signal.ITIMER_REAL, LOOK, LOOK)
    gc.disable()  # a tenth of the time of these imports: what they make stays
    for name in PRELOADED:
        importlib.import_module(name)
    gc.enable()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    end_if_orphaned(parent)


def start(request: dict, children: dict[int, int], answers: int) -> None:
    """Fork one stage and answer with its process id."""
    draw_problems(request)
    server, pid = os.getpid(), os.fork()
    if pid == 0:
        os.close(answers)
        run_child(request, server)
    children[pid] = request["id"]
    answer(answers, id=request["id"], pid=pid)


def draw_problems(request: dict) -> None:
    """Draw the problems of the built-in task here, once; every stage inherits them."""
    from npo_core.config import ChainProblems
    from npo_core.problems.load import load_problems
    from npo_core.stages.specs import SPECS

    with suppress(NPOError, OSError, ValueError):  # the stage itself says what is wrong
        settings = SPECS[request["stage"]].model_validate_json(Path(request["spec"]).read_text()).problems
        if isinstance(settings, ChainProblems):
            load_problems(settings)


def run_child(request: dict, server: int) -> None:
    """In the child: own log, default signals, then the stage. Never returns."""
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in [(null, 0), (log, 1), (log, 2)]:
            os.dup2(source, target)
        from npo_core.stages.execute import main

        code = main(request["stage"], Path(request["spec"]), parent=server)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def reap(children: dict[int, int], answers: int) -> None:
    """Report every stage that has ended."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        answer(answers, id=children.pop(pid), exit=os.waitstatus_to_exitcode(status))


def answer(answers: int, **fields: int) -> None:
    """Write one line of JSON to whoever asked."""
    os.write(answers, json.dumps(fields).encode() + b"\n")


def end(children: dict[int, int]) -> None:
    """End what still runs: ask, wait, insist."""
    signal.set_wakeup_fd(-1)
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in children:
            os.kill(pid, sign)
        deadline = time.monotonic() + GRACE
        while children and time.monotonic() < deadline:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            children.pop(pid, None)
            time.sleep(0.02)
