"""The guidance stage in two processes against one: seconds, CPU seconds, and how long the two had nothing to do."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from threading import Lock

from benchmarks.common import BenchRun, Check, in_words, markdown, say, spread
from npo_core.stages.results import TrainResult

# Many chunks for each process, and more work than it takes to start one.
MUCH = {
    "samples": 32,
    "samples_per_round": 8,
    "chunk_prompts": 64,
    "stop_at_first_correct": False,
    "skip_passed": False,
}


def dealt(bench: BenchRun, scout: TrainResult, until: int, rounds: int) -> dict[str, dict[str, float]]:
    """Of a token in two processes, to one: seconds and CPU seconds.

    And the share of the time that the models of the two did not compute.
    """
    found: dict[str, list[float]] = {"seconds": [], "cpu": [], "idle": []}
    for number in range(rounds):
        price = {}
        for processes in (1, 2) if number % 2 else (2, 1):
            made = guided(bench, scout, until, processes, seed=9000 + 2 * number + processes)
            price[processes] = (made["seconds"] / made["tokens"], made["cpu"] / made["tokens"])
            if processes == 2:
                found["idle"].append(made["idle"])
        found["seconds"].append(price[2][0] / price[1][0])
        found["cpu"].append(price[2][1] / price[1][1])
        say(f"guidance: two processes, round {number + 1}/{rounds}: {found['seconds'][-1]:.3f}")
    return {name: spread(values) for name, values in found.items()}


def check(found: dict[str, dict[str, float]]) -> Check:
    """What `dealt` found, against its target."""
    return Check("seconds a token, two processes / one", found["seconds"]["median"], 0.6)


def guided(bench: BenchRun, scout: TrainResult, until: int, processes: int, seed: int) -> dict[str, float]:
    """Seconds, CPU seconds of all processes, tokens and idle shares of one stage."""
    execution = bench.config.execution.model_dump() | {"generation_processes": processes}
    settings = bench.config.guidance.model_dump() | MUCH
    before, started = cpu_seconds(), time.perf_counter()
    with engines_timed() as timed:
        cost = bench.guide(scout, [until], guidance=settings, execution=execution, seed=seed).cost
    seconds = time.perf_counter() - started  # the start of the processes among them
    found = {"seconds": seconds, "cpu": cpu_seconds() - before, "tokens": cost.tokens_generated}
    return found | {"idle": timed.idle(processes)}


def cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


BUSY, FIRST, LAST = range(3)


class Timed:
    """Stands in for the engines' lock, which is held while a model computes; counts over all processes forked since.

    Seconds that it was held, and when first and last.
    """

    def __init__(self) -> None:
        self.values, self.lock, self.since = get_context("fork").Array("d", 3), Lock(), 0.0

    def __enter__(self) -> None:
        self.lock.acquire()
        self.since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        now = time.perf_counter()
        with self.values:
            self.values[BUSY] += now - self.since
            self.values[FIRST] = min(self.values[FIRST] or self.since, self.since)
            self.values[LAST] = max(self.values[LAST], now)
        self.lock.release()

    def idle(self, processes: int) -> float:
        """Share of the time, from the first to the last, in which a process's model did not compute."""
        return 1 - self.values[BUSY] / (processes * (self.values[LAST] - self.values[FIRST]))


@contextmanager
def engines_timed() -> Iterator[Timed]:
    """Inside it, what the engines do of this process and of those that it forks."""
    import npo_core.engines.transformers as engines  # once the environment of torch is settled

    timed, lock = Timed(), engines.ONE_AT_A_TIME
    engines.ONE_AT_A_TIME = timed  # type: ignore[assignment]
    try:
        yield timed
    finally:
        engines.ONE_AT_A_TIME = lock


def as_text(found: dict[str, dict]) -> str:
    rows = [[in_words(found[name]) for name in ("seconds", "cpu", "idle")]]
    head = ["seconds a token, two processes / one", "CPU seconds", "models idle"]
    return markdown(head, rows)
