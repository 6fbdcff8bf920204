"""Measures how many answers a second each kind of verifier judges on two cores, and what that is of a step.

    python -m benchmarks.verifiers [--rounds 5] [--quick] [--json]

Answers are solutions of about 200 words that end as models end them, 256 a batch as in a step, 8 a prompt. Half are
right, the others differ. What runs in workers has two of them; their start is measured apart. The step beside it is
the demo's.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import BenchRun, Check, demo_config, finish, in_words, markdown, parser, say, settle, spread
from npo_core.config import Execution, Verifier
from npo_core.config.verifier import (
    ExactVerifier,
    FunctionVerifier,
    MathVerifier,
    NumericVerifier,
    paper_verifier,
)
from npo_core.problems import Completion, Problem, chain
from npo_core.problems.judge import make_judge

BATCH, GROUP, WORKERS = 256, 8, 2
GSM8K = r"####\s*(.+)$"
BUILT_IN = "built-in task"
KINDS: dict[str, Verifier] = {
    "exact": ExactVerifier(),
    "numeric": NumericVerifier(),
    "math": MathVerifier(),
    "function": FunctionVerifier(path="benchmarks.verifiers:same_end"),
    "the paper's sum": paper_verifier(),
}
MOST_SECONDS = 1.0  # for a step's answers by math-verify: a tenth of a step of ten seconds
MOST_SHARE = 0.01  # of a step of the demo, for its own verifier


def same_end(prompt: str, completion: str, answer: str) -> bool:
    """The least that a function of one's own can do."""
    return completion.endswith(answer)


def solution(rng: random.Random, end: str) -> str:
    """About 200 words of reasoning with numbers, and an end."""
    steps = [
        f"Then we take {rng.randrange(1000)} of the {rng.randrange(1000)} that are left, which is "
        f"${rng.randrange(100)}x + {rng.randrange(100)}$, and go on."
        for _ in range(11)
    ]
    return "<think>\n" + "\n".join(steps) + f"\n</think>\n{end}"


def answers(kind: str, batch: int, seed: int) -> list[Completion]:
    """A batch of other prompts for every seed, half of the answers to each right."""
    rng = random.Random(f"{kind}-{seed}")
    rows = []
    for number in range(batch):
        if number % GROUP == 0:
            value = rng.randrange(10**6)
        given = value + number % 2 * rng.randrange(1, 100)
        if kind == BUILT_IN:
            prompt = chain.make_prompt(rng, 6, 3)
            answer = chain.solve(prompt)
            rows.append(Completion(Problem("", prompt, answer, 0), answer[:-1] + str(given % 10), 6, True))
        elif kind in ("exact", "numeric", "function"):
            text = solution(rng, f"#### {given}")
            rows.append(Completion(Problem("", "", f"#### {value}", 0), text, 300, True))
        else:
            text = solution(rng, f"\\boxed{{\\frac{{{2 * given}}}{{14}} + \\sqrt{{2}}}}")
            rows.append(Completion(Problem("", "", f"$\\frac{{{value}}}{{7}}+\\sqrt{{2}}$", 0), text, 300, True))
    return rows


def measure(kind: str, judge: Callable, batch: int, rounds: int) -> dict:
    """Seconds to start, and of every batch after a first one."""
    started = time.perf_counter()
    judge([])
    start = time.perf_counter() - started
    seconds = []
    for number in range(rounds + 1):
        asked = answers(kind, batch, number)
        started = time.perf_counter()
        verdicts = judge(asked)
        seconds.append(time.perf_counter() - started)
        right = sum(verdict.accuracy for verdict in verdicts)
        if kind != BUILT_IN and right != (batch + 1) // 2:
            sys.exit(f"{kind} finds {right:g} of {batch} answers right, {(batch + 1) // 2} are")
    say(f"verifiers: {kind}: {batch / statistics.median(seconds[1:]):,.0f} answers a second")
    return {"start": start, "seconds": spread(seconds[1:])}


def step_seconds(config) -> float:
    """The median wall seconds of a demo step, generation, verification and update."""
    from npo_core.timeline.segments import read_steps

    say("verifiers: steps of the demo")
    with tempfile.TemporaryDirectory(prefix="npo-verifiers-") as folder:
        bench = BenchRun(config, Path(folder) / "run")
        segment = bench.workspace.timeline.segment(bench.train("main", config.training.snapshot_every).segment)
        steps = read_steps(bench.workspace.store, segment).to_pylist()
    return statistics.median(
        row["seconds_generate"] + row["seconds_verify"] + row["seconds_update"] for row in steps[len(steps) // 4 :]
    )


def as_text(found: dict[str, dict], batch: int, step: float) -> str:
    rows = [
        [
            kind,
            f"{batch / f['seconds']['median']:,.0f}",
            in_words({name: 1000 * value for name, value in f["seconds"].items()}, digits=2),
            f"{f['seconds']['median'] / step:.4f}",
            f"{f['start']:.2f}",
        ]
        for kind, f in found.items()
    ]
    head = [
        "verifier",
        "answers a second",
        f"ms for {batch} answers: median (least to most)",
        "of a demo step",
        "s to start, once a stage",
    ]
    return f"{markdown(head, rows)}\n\nA step of the demo takes {step:.3f} s."


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int)
    options = options.parse_args()
    batch, rounds = (32, 1) if options.quick else (BATCH, options.rounds or 7)
    config = demo_config(options.quick)
    settle(config)
    found = {BUILT_IN: measure(BUILT_IN, chain.judge, batch, rounds)}
    for kind, verifier in KINDS.items():
        judge = make_judge(verifier, GSM8K, Execution(verifier_workers=WORKERS))
        found[kind] = measure(kind, judge, batch, rounds)
        del judge  # and its workers
    step = step_seconds(config)
    checks = [
        Check("a step's answers by math-verify", found["math"]["seconds"]["median"], MOST_SECONDS, " s"),
        Check("verification of the built-in task / step", found[BUILT_IN]["seconds"]["median"] / step, MOST_SHARE),
    ]
    return finish({"kinds": found, "step": step}, checks, as_text(found, batch, step), options)


if __name__ == "__main__":
    sys.exit(main())
