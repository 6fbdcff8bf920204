"""A judge whose answers are verified in worker processes that are killed when they take too long."""

import math
import os
import signal
import subprocess
import sys
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from threading import Thread
from typing import Any

from npo_core.config.verifier import FunctionVerifier, LeafVerifier, WorkerVerifier
from npo_core.errors import ConfigError, DataError, VerifierError
from npo_core.problems.functions import FunctionSource
from npo_core.problems.problem import Completion, Outcome, Problem, Reference, Verdict, found
from npo_core.problems.worker import FAULT, OUTAGE, READY, REFUSED, VERDICT
from npo_core.process import without_secrets

START_SECONDS = 120.0  # for a worker to import what it needs
TRIES = 2
FEWEST = 20  # answers that a bound is a share of, at least: one bad answer in a batch of three is no outage


class Worker:
    """One process; `job` is the index of the completion it has, or that it is to be given first."""

    def __init__(self, hello: tuple, job: int | None = None, environment: dict[str, str] | None = None):
        self.connection, theirs = Pipe()
        # No accelerator for it, and no descriptor of this process but its own end.
        there = environment or os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "npo_core.problems.worker", str(theirs.fileno()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=without_secrets(there) | {"CUDA_VISIBLE_DEVICES": ""},
            start_new_session=True,
        )
        theirs.close()
        with suppress(OSError):
            self.connection.send(hello)
        self.ready, self.job = False, job
        self.deadline = time.monotonic() + START_SECONDS

    def give(self, job: int, asked: Completion | Reference, seconds: float) -> None:
        """Hand it an answer, to be verified within so many seconds."""
        self.job, self.deadline = job, time.monotonic() + seconds
        with suppress(OSError):  # it died; its closed connection is found by whoever waits for it
            self.connection.send(asked)

    def end(self) -> None:
        """Kill it with whatever it started, and wait until it is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()


def end_all(workers: list[Worker]) -> None:
    """End all workers and empty the list."""
    while workers:
        workers.pop().end()


class Pool:
    """Judges by `workers` processes, each with one answer at a time.

    A timeout or a crash is tried once more, after the worker's end in a fresh one. Where more than `max_outages` (a
    share) of a batch remain without a verdict, the batch is given up. Processes start with the first batch and end with
    this object, and with this process, however that ends.

    Args:
        environment: of the processes, which by default have this one's with its paths of modules.

    Raises, when called:
        ConfigError: the verifier cannot be made, or gave what no verifier may give.
        DataError: a function raised, and again for the same answer: no other try would help.
        VerifierError: too many outages.
    """

    def __init__(
        self,
        verifier: WorkerVerifier,
        answer_pattern: str,
        *,
        workers: int,
        max_outages: float,
        accuracy: bool = True,
        example: Problem | None = None,
        environment: dict[str, str] | None = None,
    ):
        self.environment = environment
        self.source: FunctionSource | None = None  # of a function, once a worker is ready
        self.verifier, self.size, self.max_outages = verifier, workers, max_outages
        self.hello = (verifier, answer_pattern, accuracy, example)
        self.workers: list[Worker] = []
        self.growing: GrowingBatch | None = None
        self.growings: SimpleQueue[GrowingBatch | None] | None = None  # for the thread that verifies them
        weakref.finalize(self, end_all, self.workers)

    def __call__(self, completions: Sequence[Completion]) -> list[Verdict]:
        growing, self.growing = self.growing, None
        if growing is not None:
            return growing.verdicts_of(completions)
        return self.answers(completions, self.max_outages)

    def begin(self, completions: Sequence[Completion]) -> None:
        """Verify completions of the batch that is asked next, in a thread, while others of it are still written."""
        if self.growing is None:
            self.growing = GrowingBatch(self)
            self.queue().put(self.growing)
        self.growing.give(completions)

    def queue(self) -> "SimpleQueue[GrowingBatch | None]":
        """For growing batches. Its thread lives as long as this object: with a thread, the workers it started end."""
        if self.growings is None:
            self.growings = SimpleQueue()
            Thread(target=verify_growing, args=[self.growings], name="verify", daemon=True).start()
            weakref.finalize(self, self.growings.put, None)
        return self.growings

    def lacking(self, references: Sequence[Reference]) -> list[str | None]:
        """What each reference lacks to be compared with anything, in words; None: nothing. Raises ConfigError."""
        said = self.answers(references, 1.0)
        return ["form that is read in time" if isinstance(one, Verdict) else one for one in said]

    def answers(self, asked: Sequence[Completion | Reference], max_outages: float) -> list:
        """The answers of the workers, in the order asked. Raises what a call does, with another bound of outages."""
        try:
            return Batch(self, asked, max_outages).answers()
        except BaseException:
            end_all(self.workers)  # what they were at is nobody's business any more
            raise

    def start(self, count: int) -> None:
        """See to it that there are so many workers."""
        while len(self.workers) < count:
            self.workers.append(Worker(self.hello, None, self.environment))

    def replace(self, worker: Worker, job: int | None) -> None:
        """A fresh worker in the place of one; it is first given the job."""
        worker.end()
        self.workers[self.workers.index(worker)] = Worker(self.hello, job, self.environment)


def verify_growing(batches: "SimpleQueue[GrowingBatch | None]") -> None:
    """Verify one batch after the other; None ends it."""
    while (batch := batches.get()) is not None:
        batch.run()
        del batch  # it has the pool, which may be forgotten now


class Batch:
    """What one call asks (completions, or references) on its way through the workers."""

    bell: Connection | None = None  # says that there is more

    def __init__(self, pool: Pool, asked: Sequence[Completion | Reference], max_outages: float):
        self.pool, self.max_outages = pool, max_outages
        self.asked: list[Completion | Reference] = []
        self.found: list[Verdict | str | None] = []
        self.tries: list[int] = []
        self.waiting: deque[int] = deque()
        self.open = 0
        self.outages = 0
        self.why = ""  # of the last outage
        self.faulted: set[int] = set()  # for which a function raised once
        self.add(asked)

    def add(self, asked: Sequence[Completion | Reference]) -> None:
        """Ask more."""
        self.waiting.extend(range(len(self.asked), len(self.asked) + len(asked)))
        self.asked += asked
        self.found += [None] * len(asked)
        self.tries += [0] * len(asked)
        self.open += len(asked)

    @property
    def unfinished(self) -> bool:
        """Whether an answer is missing, or it is not known yet that there can be one."""
        return self.open > 0 or not any(worker.ready for worker in self.pool.workers)

    def answers(self) -> list[Verdict | str | None]:
        """All answers, once there is one for each."""
        self.pool.start(min(self.pool.size, len(self.asked)) or 1)
        while self.unfinished:
            for worker in self.pool.workers:
                self.feed(worker)
            self.listen()
        return self.found

    def feed(self, worker: Worker) -> None:
        """Give an idle worker what is next."""
        if worker.ready and worker.job is None and self.waiting:
            self.hand(worker, self.waiting.popleft())

    def hand(self, worker: Worker, job: int) -> None:
        """Give a worker a job, and count the try."""
        self.tries[job] += 1
        worker.give(job, self.asked[job], self.pool.verifier.timeout)

    def listen(self) -> None:
        """Wait for the next message, death or deadline, and act on all there are."""
        waited = [worker for worker in self.pool.workers if worker.job is not None or not worker.ready]
        seconds = max(0.0, min((worker.deadline for worker in waited), default=math.inf) - time.monotonic())
        connections = [worker.connection for worker in waited] + ([self.bell] if self.bell else [])
        spoke = wait(connections, None if seconds == math.inf else seconds)
        if self.bell in spoke:
            self.grow()
        for worker in waited:
            if worker.connection in spoke:
                self.hear(worker)
            elif worker.deadline < time.monotonic():
                self.give_up(worker, Outcome.TIMEOUT, f"no verdict within {self.pool.verifier.timeout:g} s")

    def hear(self, worker: Worker) -> None:
        """Act on a worker's message, or on its end."""
        try:
            kind, value = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.wait()
            return self.give_up(worker, Outcome.CRASH, f"the worker ended with code {worker.process.returncode}")
        if kind == REFUSED:
            raise ConfigError(value)
        job, worker.job = worker.job, None
        if kind == READY:
            worker.ready, self.pool.source = True, value
            if job is not None:
                self.hand(worker, job)
        elif job is not None:
            self.take(job, kind, value)

    def take(self, job: int, kind: str, value: Any) -> None:
        """Act on what a worker said of its job."""
        if kind == VERDICT:
            self.settle(job, value)
        elif kind == FAULT:
            self.fault(job, value)
        elif kind == OUTAGE and not self.settled(job, *value):
            self.waiting.appendleft(job)

    def grow(self) -> None:
        """Take up what the bell spoke of."""

    def fault(self, job: int, said: str) -> None:
        """Ask once more where a function raised. Raises DataError where it raises again."""
        if job in self.faulted:
            raise DataError(said)
        self.faulted.add(job)
        if not self.settled(job, Outcome.CRASH, said.splitlines()[0]):
            self.waiting.appendleft(job)

    def give_up(self, worker: Worker, outcome: Outcome, why: str) -> None:
        """End a worker, and let a fresh one try once more what it had."""
        if not worker.ready:
            kind = VerifierError if any(other.ready for other in self.pool.workers) else ConfigError
            raise kind(f"The verifier {named(self.pool.verifier)} cannot start ({why}): see the log for what it said.")
        job = worker.job
        self.pool.replace(worker, None if job is None or self.settled(job, outcome, why) else job)

    def settle(self, job: int, answer: Verdict | str | None) -> None:
        """Note a final answer."""
        self.found[job] = answer
        self.open -= 1

    def settled(self, job: int, outcome: Outcome, why: str) -> bool:
        """Whether an outage is final; counts it then. Raises VerifierError where that is one too many."""
        if self.tries[job] < TRIES:
            return False
        self.settle(job, found(outcome))
        self.outages, self.why = self.outages + 1, why
        self.stop_outages()
        return True

    def stop_outages(self) -> None:
        """Raises VerifierError where there are too many."""
        stop_outages(self.outages, len(self.found), self.max_outages, self.pool.verifier, self.why)


class GrowingBatch(Batch):
    """A batch that is verified in one thread while another one still gives completions to it."""

    bell: Connection

    def __init__(self, pool: Pool):
        super().__init__(pool, [], math.inf)  # how many outages are too many is known once all completions are
        self.bell, self.ring = Pipe(duplex=False)
        self.coming: SimpleQueue[tuple[list[Completion], bool]] = SimpleQueue()
        self.given: list[Completion] = []
        self.whole = False
        self.result: Future[list] = Future()

    # Called by the thread that gives.

    def give(self, completions: Sequence[Completion], last: bool = False) -> None:
        """Have more completions verified."""
        self.given += completions
        self.coming.put((list(completions), last))
        with suppress(OSError):  # it failed; `verdicts_of` says why
            self.ring.send_bytes(b"!")

    def verdicts_of(self, completions: Sequence[Completion]) -> list[Verdict]:
        """The verdicts of the batch, now that it is known as a whole; those not given before are verified, too.

        Raises what a call of the pool does.
        """
        places: dict[Completion, deque[int]] = defaultdict(deque)
        for place, completion in enumerate(self.given):
            places[completion].append(place)
        order: list[int] = []
        rest: list[Completion] = []
        for completion in completions:
            if not places[completion]:
                places[completion].append(len(self.given) + len(rest))
                rest.append(completion)
            order.append(places[completion].popleft())
        self.give(rest, last=True)
        try:
            found = self.result.result()
        finally:
            del self.result  # an exception's frames have this object, which would keep the workers with it
        return [found[place] for place in order]

    # Called by the thread that verifies.

    def run(self) -> None:
        """Verify all there is and will be."""
        try:
            self.result.set_result(self.answers())
        except BaseException as error:
            end_all(self.pool.workers)
            self.result.set_exception(error)
        finally:
            self.bell.close()

    @property
    def unfinished(self) -> bool:
        return not self.whole or super().unfinished

    def grow(self) -> None:
        self.bell.recv_bytes()
        completions, self.whole = self.coming.get()
        self.add(completions)
        self.pool.start(min(self.pool.size, len(self.asked)) or 1)
        if self.whole:
            self.max_outages = self.pool.max_outages
            self.stop_outages()


def named(verifier: LeafVerifier) -> str:
    """A verifier's name in messages."""
    return verifier.path if isinstance(verifier, FunctionVerifier) else verifier.kind


def stop_outages(outages: int, batch: int, most: float, verifier: LeafVerifier, why: str) -> None:
    """Raises VerifierError where more than the share `most` of a batch timed out or crashed."""
    if outages > most * max(batch, FEWEST):
        raise VerifierError(
            f"{outages} of {batch} answers could not be verified by {named(verifier)} (the last one: {why}), more than "
            f"execution.max_outages = {most:g} of them: mend the verifier or allow it more time, then start the same "
            "command again; no answer was counted as wrong."
        )
