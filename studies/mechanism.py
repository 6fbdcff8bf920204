"""Why methods gain or lose: their batches, what they lose and regain, and every possible source of a guide over a run.

    python -m studies.mechanism [--folder .npo/study] [--seeds 1 2 3] [--write-docs]

Reads the runs that `python -m studies.methods --tasks E` left, and trains nothing; minutes.
`--write-docs` puts tables and pictures into docs/mechanism.md.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from npo_core.engines import Engine
from npo_core.problems import Completion, Problem
from npo_core.problems.load import load_problems
from npo_core.reporting.run_data import RunData, load
from npo_core.seeds import derive_seed
from npo_core.stages.guides import write_beyond
from npo_core.stages.workspace import Workspace
from npo_core.timeline.segments import read_outcomes

ARMS = ("grpo", "rare-success-replay", "pool-rescue-replay-8", "npo-early")
PLACES = (60, 120, 240)  # updates of the run of GRPO at which sources are compared
BESIDE = 60  # updates between snapshots, and the distance that weights are extrapolated over
AHEAD = (60, 120, 240)
ASKED, MOST = 512, 192  # training prompts that the policy answers, and dead ones that every source answers
GROUP, SAMPLES = 8, 32
SOLVED = 0.5  # pass rate of a held-out problem from which it counts as solved


@dataclass(frozen=True)
class Source:
    """What a possible guide makes of the prompts that the policy at `place` failed with all of a group.

    q8, q32   share with a right completion among 8 and among 32
    kl        KL(source || policy), k1, nats a token, on all that the source wrote
    tokens    generated until the first right completion, rounds of 8 and at most 32, for each prompt that got one
    """

    place: int
    name: str
    seed: int
    prompts: int
    q8: float
    q32: float
    kl: float
    tokens: float


@dataclass(frozen=True)
class Course:
    """An arm's run: windows of updates, and what its held-out problems became. Shares are of a batch's groups.

    `lost`, `regained`: shares of the held-out problems that were solved before and are not, or are again, at `steps`.
    """

    arm: str
    seed: int
    windows: list[int]
    wrong: list[float]
    right: list[float]
    entropy: list[float]
    tokens: dict[str, float]
    steps: list[int]
    lost: list[float]
    regained: list[float]


class SavedRun:
    """A finished run of the study: figures, problems, and engines of its snapshots."""

    def __init__(self, folder: Path, arm: str, seed: int):
        self.workspace, self.arm, self.seed = Workspace(folder / f"E-{arm}-s{seed}"), arm, seed
        self.data: RunData = load(self.workspace)
        self.config = self.data.config
        self.states = self.workspace.timeline.states(self.data.branch or "main")

    @cached_property
    def problems(self):
        return load_problems(self.config.problems)

    def engine(self, step: int) -> Engine:
        return open_folder(self.workspace.snapshot_folder(self.states[step]))

    def answer(self, engine: Engine, asked: Sequence[Problem], samples: int, *of: object) -> tuple[list, np.ndarray]:
        """Completions of a model and which are right, [problem, sample]."""
        seed = derive_seed("mechanism", self.seed, *of)
        given = engine.generate(
            asked, samples=samples, max_tokens=self.config.training.max_completion_tokens, seed=seed
        )
        rows = [(problem, c) for problem, several in zip(asked, given, strict=True) for c in several]
        verdicts = self.problems.judge([Completion(p, c.text, len(c.token_ids), c.finished) for p, c in rows])
        return given, np.array([bool(v.correct) for v in verdicts]).reshape(len(asked), samples)


def open_folder(folder: Path) -> Engine:
    from npo_core.engines.transformers import TransformersEngine

    return TransformersEngine(folder, device="cpu")


def sources(run: SavedRun, place: int) -> Iterator[Source]:
    """Every possible source of guidance at a place of a run, on the prompts that fail there."""
    policy, by_id = run.engine(place), {problem.id: problem for problem in run.problems.train}
    asked = [by_id[id_] for id_ in next_prompts(run, place)]
    _, right = run.answer(policy, asked, GROUP, place, "who fails")
    dead = [problem for problem, found in zip(asked, right.any(axis=1), strict=True) if not found][:MOST]
    with TemporaryDirectory() as scratch:
        for name, engine in possible(run, place, Path(scratch)):
            given, right = run.answer(engine, dead, SAMPLES, place, name)
            written = [[c.token_ids for c in several] for several in given]
            own, guided = (np.concatenate(scored(e, dead, written)) for e in (engine, policy))
            yield Source(
                place,
                name,
                run.seed,
                len(dead),
                q8=float(right[:, :GROUP].any(axis=1).mean()),
                q32=float(right.any(axis=1).mean()),
                kl=float((own - guided).mean(dtype=np.float64)),
                tokens=price(right, np.array([[len(ids) for ids in several] for several in written])),
            )


def next_prompts(run: SavedRun, place: int) -> list[str]:
    """The prompts that the run met after a place, as far as they are asked."""
    timeline = run.workspace.timeline
    rows = (row for part in timeline.path("main") for row in read_outcomes(timeline.store, part).to_pylist())
    return list(dict.fromkeys(row["prompt_id"] for row in rows if row["step"] > place))[:ASKED]


def possible(run: SavedRun, place: int, scratch: Path) -> Iterator[tuple[str, Engine]]:
    """The policy itself, the base and the snapshot before, the ones to come, and weights beyond its own."""
    yield "now", run.engine(place)
    yield "behind: the base", run.engine(0)
    if place > BESIDE:
        yield f"behind by {BESIDE}", run.engine(place - BESIDE)
    for reach in AHEAD:
        if place + reach in run.states:
            yield f"ahead by {reach}", run.engine(place + reach)
    before, after = (run.workspace.snapshot_folder(run.states[step]) for step in (place - BESIDE, place))
    write_beyond(before, after, 1.0, scratch / "beyond")
    yield f"extrapolated by {BESIDE}", open_folder(scratch / "beyond")


def scored(engine: Engine, asked: Sequence[Problem], written: Sequence[Sequence[Sequence[int]]]) -> list[np.ndarray]:
    """Log-probabilities of all completions, one array a completion."""
    pairs = [(problem, ids) for problem, several in zip(asked, written, strict=True) for ids in several]
    return engine.score([problem for problem, _ in pairs], [ids for _, ids in pairs])


def price(right: np.ndarray, lengths: np.ndarray) -> float:
    """Tokens a rescued prompt: rounds of 8 until one has a right completion; infinite where nothing is rescued."""
    rounds = right.reshape(len(right), -1, GROUP).any(axis=2)
    needed = np.where(rounds.any(axis=1), rounds.argmax(axis=1) + 1, rounds.shape[1])
    spent = sum(row[: GROUP * n].sum() for row, n in zip(lengths, needed, strict=True))
    rescued = rounds.any(axis=1).sum()
    return float(spent / rescued) if rescued else float("inf")


def course(run: SavedRun, window: int = 20) -> Course:
    """What a run's batches were made of, and what its held-out problems became."""
    steps, places = run.data.steps, run.config.training.prompts_per_step
    ends = list(range(window, run.data.steps_done + 1, window))
    parts = [steps.between(end - window, end) for end in ends]
    means = {name: [part.mean(name) or 0.0 for part in parts] for name in ("groups_all_wrong", "groups_all_right")}
    wrong, right = ([value / places for value in values] for values in means.values())
    evaluated = sorted(step for step in run.states if step % BESIDE == 0)
    rates = np.array([
        run.answer(run.engine(step), run.problems.held_out, 4, step, "held out")[1].mean(axis=1) for step in evaluated
    ])  # fmt: skip
    solved = rates >= SOLVED
    lost, regained = changes(solved)
    entropy = [part.mean("entropy_on_policy") or 0.0 for part in parts]
    return Course(run.arm, run.seed, ends, wrong, right, entropy, spending(run), evaluated, lost, regained)


def changes(solved: np.ndarray) -> tuple[list[float], list[float]]:
    """Of [snapshot, problem] whether solved: at each snapshot the shares lost, and lost before and solved again."""
    ever = np.logical_or.accumulate(solved)
    gone = ever & ~solved
    again = np.logical_or.accumulate(gone) & solved
    return gone.mean(axis=1).tolist(), again.mean(axis=1).tolist()


def spending(run: SavedRun) -> dict[str, float]:
    """Shares of all generated tokens: of groups by what they were, of extra samples, and beside the final branch."""
    steps, n = run.data.steps, run.config.training.prompts_per_step
    columns = (steps["tokens_generated"], steps["tokens_extra"], steps["groups_all_wrong"], steps["groups_all_right"])
    kinds = dict.fromkeys(("live groups", "all-wrong groups", "all-right groups", "extra samples"), 0.0)
    for tokens, extra, wrong, right in zip(*columns, strict=True):
        own = (tokens or 0.0) - (extra or 0.0)
        kinds["all-wrong groups"] += own * wrong / n
        kinds["all-right groups"] += own * right / n
        kinds["live groups"] += own * (n - wrong - right) / n
        kinds["extra samples"] += extra or 0.0
    kinds["beside the final branch"] = run.data.spent.tokens
    whole = sum(kinds.values())
    return {name: tokens / whole for name, tokens in kinds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get("NPO_HOME", ".npo")) / "study")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--arms", nargs="+", default=list(ARMS), help="the first one's run is where sources are compared"
    )
    parser.add_argument("--places", type=int, nargs="+", default=list(PLACES))
    parser.add_argument("--json", type=Path, help="keep what was measured here")
    parser.add_argument("--write-docs", action="store_true", help="put tables and pictures into docs/mechanism.md")
    options = parser.parse_args()
    from studies.mechanism_page import page, write

    courses, found = [], []
    for seed in options.seeds:
        runs = [SavedRun(options.folder.absolute(), arm, seed) for arm in options.arms]
        courses += [course(run) for run in runs]
        found += [source for place in options.places for source in sources(runs[0], place)]
        print(f"seed {seed} is measured", flush=True)
    if options.json:
        options.json.write_text(json.dumps([[asdict(one) for one in of] for of in (courses, found)]))
    print(page(courses, found))
    if options.write_docs:
        write(courses, found, Path(__file__).parents[1] / "docs")


if __name__ == "__main__":
    main()
