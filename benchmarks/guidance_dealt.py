"""The guidance stage in two processes against one: seconds, CPU seconds, and how long the two had nothing to do."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

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
    """Of a token in two processes, to one: seconds and CPU seconds.

    And the share of the time that the two had nothing to do, and that of rows which had ended before their batch.
    """
    found: dict[str, list[float]] = {"seconds": [], "cpu": [], "idle": [], "tail": []}
    for number in range(rounds):
        price: dict[int, tuple[float, float]] = {}
        for processes in (1, 2) if number % 2 else (2, 1):
            made = guided(bench, scout, until, processes, seed=9000 + 2 * number + processes)
            price[processes] = (made["seconds"] / made["tokens"], made["cpu"] / made["tokens"])
            if processes == 2:
                found["idle"].append(made["idle"])
                found["tail"].append(made["tail"])
        found["seconds"].append(price[2][0] / price[1][0])
        found["cpu"].append(price[2][1] / price[1][1])
        say(f"guidance: two processes, round {number + 1}/{rounds}: {found['seconds'][-1]:.3f}")
    return {name: spread(values) for name, values in found.items()}


def guided(bench: BenchRun, scout: TrainResult, until: int, processes: int, seed: int) -> dict[str, float]:
    """Seconds, CPU seconds of all processes, tokens and, where there are several, idle shares of one stage."""
    execution = bench.config.execution.model_dump() | {"generation_processes": processes}
    settings = bench.config.guidance.model_dump() | MUCH
    before, started = cpu_seconds(), time.perf_counter()
    with parts_timed() as parts:
        cost = bench.guide(scout, [until], guidance=settings, execution=execution, seed=seed).cost
    seconds = time.perf_counter() - started  # the start of the processes among them
    found = {"seconds": seconds, "cpu": cpu_seconds() - before, "tokens": cost.tokens_generated}
    if not parts:
        return found
    whole = processes * (parts[-1].end - min(part.start for part in parts))
    places = sum(part.places for part in parts)
    idle = 1 - sum(part.end - part.start for part in parts) / whole
    return found | {"idle": idle, "tail": 1 - sum(part.tokens for part in parts) / places}


def cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


class Part(NamedTuple):
    """Seconds at which a process began and ended a part; its tokens, and as many as rows of the longest would have."""

    start: float
    end: float
    tokens: int
    places: int


@contextmanager
def parts_timed() -> Iterator[list[Part]]:
    """Inside it, what the processes were asked, in the order of ends."""
    parts: list[Part] = []
    ask = Hosts.ask

    def timed(self: Hosts, key: int, opening: dict[str, Any], part: Any) -> list:
        number = self.free.get()  # the wait for a free process is not its work
        self.free.put(number)
        started = time.perf_counter()
        found = ask(self, key, opening, part)
        lengths = [len(row.token_ids) for given in found for row in given] if part[0] == "generate" else [0]
        parts.append(Part(started, time.perf_counter(), sum(lengths), len(lengths) * max(lengths)))
        return found

    Hosts.ask = timed  # type: ignore[method-assign]
    try:
        yield parts
    finally:
        Hosts.ask = ask  # type: ignore[method-assign]


def as_text(found: dict[str, dict]) -> str:
    rows = [[in_words(found[name]) for name in ("seconds", "cpu", "idle", "tail")]]
    head = ["seconds a token, two processes / one", "CPU seconds", "processes idle", "places of rows that ended, idle"]
    return markdown(head, rows)
