"""Measures how many answers a second each kind of verifier judges on two cores, and what that is of a step.

    python -m benchmarks.verifiers [--rounds 5] [--quick] [--json]

Answers are solutions of about 200 words that end as models end them, 256 a batch as in a step, 8 a prompt. Half are
right, the others differ. What runs in workers has two of them; their start is measured apart. The step beside it is
the demo's.

Beside that, a rollout with one long completion among short ones whose answers a function takes `WAITS` seconds for, as
where a service says it: verified after it, as before, and while it goes on, as in training.
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
from npo_core.problems.judge import begin, make_judge

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
WAITS = 0.05
MOST_SECONDS = 1.0  # for a step's answers by math-verify: a tenth of a step of ten seconds
MOST_SHARE = 0.01  # of a step of the demo, for its own verifier


def same_end(prompt: str, completion: str, answer: str) -> bool:
    """The least that a function of one's own can do."""
    return completion.endswith(answer)


def waiting(prompt: str, completion: str, answer: str) -> bool:
    """What a service is asked."""
    time.sleep(WAITS)
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


def overlap(quick: bool, rounds: int) -> dict[str, dict]:
    """Seconds of a rollout, of it and its verification one after the other, and of both at once, in turn."""
    from benchmarks.steps_cases import one_long
    from npo_core.engines.sampling import Row, Sampling, sample
    from npo_core.engines.transformers import TransformersEngine
    from npo_core.models.inputs import read_prompts

    with tempfile.TemporaryDirectory(prefix="npo-verifiers-") as folder:
        one_long(Path(folder), quick)
        engine = TransformersEngine(folder)
    texts = ["L" if i == 0 else "s" * (1 + i % 8) for i in range(48)]
    problems = [Problem(f"{i:016x}", text, "a", 0) for i, text in enumerate(texts)]
    prompts, of = read_prompts(engine.tokenizer, problems), [i // 2 for i in range(2 * len(problems))]
    judge = make_judge(FunctionVerifier(path="benchmarks.verifiers:waiting"), "", Execution(verifier_workers=WORKERS))
    judge([])
    seconds: dict[str, list[float]] = {"rollout": [], "then verified": [], "verified meanwhile": []}

    def completions(places: list[int], token_ids: list[list[int]]) -> list[Completion]:
        spoken = engine.tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        rows = zip(places, spoken, token_ids, strict=True)
        return [Completion(problems[of[i]], text, len(ids), ids[-1] in engine.eos_ids) for i, text, ids in rows]

    def tell(places: list[int], token_ids: list[list[int]]) -> None:
        begin(judge, completions(places, token_ids))

    for number in range(rounds + 1):
        verdicts = []
        for name in ("then verified", "verified meanwhile"):
            started = time.perf_counter()
            asked = [Row(number, i) for i, number in enumerate(of)]
            sampling = Sampling(number, 32 if quick else 256, engine.eos_ids, engine.tokenizer.pad_token_id)
            told = None if name == "then verified" else tell
            rows = sample(engine.model, lambda numbers: [prompts[i] for i in numbers], asked, sampling, ended=told)
            if name == "then verified":
                seconds["rollout"].append(time.perf_counter() - started)
            verdicts.append(judge(completions(list(range(len(rows))), [row.token_ids for row in rows])))
            seconds[name].append(time.perf_counter() - started)
        if verdicts[0] != verdicts[1]:
            sys.exit("verdicts differ where verification overlaps the rollout")
    return {name: spread(values[1:]) for name, values in seconds.items()}


def as_text(found: dict[str, dict], batch: int, step: float, overlapped: dict[str, dict]) -> str:
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
    beside = markdown(["a rollout, slow answers", "s"], [[name, in_words(f)] for name, f in overlapped.items()])
    return f"{markdown(head, rows)}\n\nA step of the demo takes {step:.3f} s.\n\n{beside}"


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
    overlapped = overlap(options.quick, min(rounds, 3))
    medians = {name: seconds["median"] for name, seconds in overlapped.items()}
    checks = [
        Check("slow answers, verified meanwhile / then", medians["verified meanwhile"] / medians["then verified"]),
        Check("a step's answers by math-verify", found["math"]["seconds"]["median"], MOST_SECONDS, " s"),
        Check("verification of the built-in task / step", found[BUILT_IN]["seconds"]["median"] / step, MOST_SHARE),
    ]
    text = as_text(found, batch, step, overlapped)
    return finish({"kinds": found, "step": step, "overlap": overlapped}, checks, text, options)


if __name__ == "__main__":
    sys.exit(main())
