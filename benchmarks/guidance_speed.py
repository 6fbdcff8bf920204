"""Tokens a second of the guidance stage against its engine's own plain loop on the same prompts."""

from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks.common import BenchRun, in_words, markdown, say, spread
from benchmarks.guidance_plain import transformers_loop, vllm_loop
from npo_core.problems.load import load_problems
from npo_core.stages.results import TrainResult
from npo_core.timeline.segments import read_outcomes

SAMPLES = 8
ALL = {"samples": SAMPLES, "samples_per_round": SAMPLES, "stop_at_first_correct": False, "skip_passed": False}


def speed(bench: BenchRun, scout: TrainResult, until: int, rounds: int) -> dict[str, dict[str, float]]:
    """Tokens a second of the stage and of the loop, and their ratio within a round; the two take turns."""
    found: dict[str, list[float]] = {"stage": [], "plain": [], "ratio": []}
    with plain_loop(bench, scout, until) as loop:
        loop()  # allocations, measured with nobody
        for number in range(rounds):
            settings = bench.config.guidance.model_dump() | ALL
            pair = {}
            for side in ("stage", "plain") if number % 2 else ("plain", "stage"):
                if side == "plain":
                    seconds, tokens = loop()
                else:
                    cost = bench.guide(scout, [until], guidance=settings, seed=5000 + number).cost
                    seconds, tokens = cost.seconds, cost.tokens_generated
                pair[side] = tokens / seconds
            found["stage"].append(pair["stage"])
            found["plain"].append(pair["plain"])
            found["ratio"].append(pair["stage"] / pair["plain"])
            say(f"guidance: {bench.config.engine.kind}, round {number + 1}/{rounds}: {found['ratio'][-1]:.3f}")
    return {name: spread(values) for name, values in found.items()}


@contextmanager
def plain_loop(bench: BenchRun, scout: TrainResult, until: int):
    """The loop of the configured engine over the prompts that the scout met."""
    problems = {problem.id: problem for problem in load_problems(bench.config.problems).train}
    segment = bench.workspace.timeline.segment(scout.segment)
    rows = read_outcomes(bench.workspace.store, segment).to_pylist()
    asked = [problems[id_] for id_ in dict.fromkeys(row["prompt_id"] for row in rows)]
    folder, limit = bench.folder(scout.snapshots[until]), bench.config.training.max_completion_tokens
    if bench.config.engine.kind == "transformers":
        batch = bench.config.guidance.chunk_prompts
        yield transformers_loop(folder, asked, prompts_a_batch=batch, samples=SAMPLES, max_tokens=limit)
        return
    python = bench.config.engine.python
    loop, process = vllm_loop(python, Path(folder), asked, samples=SAMPLES, max_tokens=limit)
    with closing(process.stdin), process:
        yield loop
        process.stdin.close()


def as_text(found: dict[str, dict]) -> str:
    rows = [
        [engine, in_words(f["stage"], digits=0), in_words(f["plain"], digits=0), in_words(f["ratio"])]
        for engine, f in found.items()
    ]
    return markdown(["engine", "stage, tokens a second", "plain loop", "stage / plain loop"], rows)
