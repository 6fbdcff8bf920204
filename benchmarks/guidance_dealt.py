"""The guidance stage in two processes against one: seconds, CPU seconds, and how long the two had nothing to do."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.common import BenchRun, in_words, markdown, say, spread
from npo_core.engines.dealt import Hosts
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
    """Of a token in two processes, to one: seconds and CPU seconds; and the share of the time that they were idle."""
    found: dict[str, list[float]] = {"seconds": [], "cpu": [], "idle": []}
    for number in range(rounds):
        price: dict[int, tuple[float, float]] = {}
        for processes in (1, 2) if number % 2 else (2, 1):
            seconds, cpu, tokens, idle = guided(bench, scout, until, processes, seed=9000 + 2 * number + processes)
            price[processes] = (seconds / tokens, cpu / tokens)
            found["idle"] += [idle] if processes == 2 else []
        found["seconds"].append(price[2][0] / price[1][0])
        found["cpu"].append(price[2][1] / price[1][1])
        say(f"guidance: two processes, round {number + 1}/{rounds}: {found['seconds'][-1]:.3f}")
    return {name: spread(values) for name, values in found.items()}


def guided(
    bench: BenchRun, scout: TrainResult, until: int, processes: int, seed: int
) -> tuple[float, float, float, float]:
    """Seconds, CPU seconds of all processes, tokens, and the idle share of one stage."""
    execution = bench.config.execution.model_dump() | {"generation_processes": processes}
    settings = bench.config.guidance.model_dump() | MUCH
    before = cpu_seconds()
    with parts_timed() as parts:
        cost = bench.guide(scout, [until], guidance=settings, execution=execution, seed=seed).cost
    idle = 0.0
    if parts:
        idle = 1 - sum(end - start for start, end in parts) / (processes * (parts[-1][1] - min(parts)[0]))
    return cost.seconds, cpu_seconds() - before, cost.tokens_generated, idle


def cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


@contextmanager
def parts_timed() -> Iterator[list[tuple[float, float]]]:
    """Inside it, when each part that a process was asked for began and ended, in the order of ends."""
    parts: list[tuple[float, float]] = []
    ask = Hosts.ask

    def timed(self: Hosts, *request) -> list:
        number = self.free.get()  # the wait for a free process is not its work
        self.free.put(number)
        started = time.perf_counter()
        found = ask(self, *request)
        parts.append((started, time.perf_counter()))
        return found

    Hosts.ask = timed  # type: ignore[method-assign]
    try:
        yield parts
    finally:
        Hosts.ask = ask  # type: ignore[method-assign]


def as_text(found: dict[str, dict]) -> str:
    rows = [[in_words(found["seconds"]), in_words(found["cpu"]), in_words(found["idle"])]]
    head = ["seconds a token, two processes / one", "CPU seconds a token", "share of the time that the two were idle"]
    return markdown(head, rows)
