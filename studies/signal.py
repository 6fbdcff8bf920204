"""Q, KL and S over Delta, measured from the saved snapshots of finished GRPO runs.

    python -m studies.signal [--runs .npo/results] [--write-docs]

Looking ahead: the prompts that the policy at t fails, asked again of every later snapshot of its run. Looking back, as
AutoNPO does: the current policy on the failures since each earlier snapshot. `--write-docs` puts tables and picture
into docs/signal.md. One process, nothing is trained; minutes.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import say
from npo_core.config import AutoNPO
from npo_core.control.pool import Mistake, MistakePool
from npo_core.control.probe import Rollout, choose_mistakes, estimate, roll_out, score
from npo_core.engines import Engine
from npo_core.problems.load import load_problems
from npo_core.stages.workspace import Workspace
from npo_core.timeline import SnapshotRef
from npo_core.timeline.segments import read_outcomes
from studies.signal_points import ESTIMATORS, FAILED, POOL, PROBE, Curve, Point
from studies.signal_report import page, write

STARTS = {0: 1024, 120: 10240}  # the base and mid-training: prompts of the window that are asked at most
ENDS = (120, 320)  # current policies that look back
WINDOW = 200  # updates whose prompts are asked; the last snapshot of a run is as far from the later start
SAMPLES = 4
MOST = 512  # failed prompts asked of every snapshot


class SavedRun:
    """A finished GRPO run: its snapshots by step, the prompts in the order it met them, engines on demand."""

    def __init__(self, folder: Path, seed: int):
        self.workspace, self.seed = Workspace(folder), seed
        self.config = self.workspace.config()
        self.problems = load_problems(self.config.problems)
        self.by_id = {problem.id: problem for problem in self.problems.train}
        self.states = self.workspace.timeline.states("main")
        self.engines: dict[int, Engine] = {}

    @cached_property
    def outcomes(self) -> list[dict[str, Any]]:
        timeline = self.workspace.timeline
        return [row for part in timeline.path("main") for row in read_outcomes(timeline.store, part).to_pylist()]

    def engine(self, step: int) -> Engine:
        from npo_core.engines.transformers import TransformersEngine

        if step not in self.engines:
            self.engines[step] = TransformersEngine(self.workspace.snapshot_folder(self.states[step]), device="cpu")
        return self.engines[step]

    def window(self, after: int, until: int) -> list[Mistake]:
        """The prompts of the updates (after, until], each with the first of these that met it."""
        first: dict[str, int] = {}
        for row in self.outcomes:
            if after < row["step"] <= until:
                first.setdefault(row["prompt_id"], row["step"])
        return [Mistake(id_, step, 0.0) for id_, step in first.items()]

    def pool(self, at: int) -> MistakePool:
        """The mistake pool that a watched run would have after update `at`."""
        pool = MistakePool(AutoNPO().control.pool)
        for row in self.outcomes:
            if row["step"] <= at:
                pool.add(row["step"], [(row["prompt_id"], row["pass_rate"])])
        return pool

    def ask(self, step: int, prompts: Sequence[Mistake], purpose: str) -> list[Rollout]:
        """Samples of the snapshot at `step`."""
        from npo_core.seeds import derive_seed

        return roll_out(
            self.engine(step),
            prompts,
            self.by_id,
            self.problems.judge,
            samples=SAMPLES,
            max_tokens=self.config.training.max_completion_tokens,
            seed=derive_seed("signal curves", self.seed, step, purpose),
        )


def ahead(run: SavedRun, start: int) -> list[Curve]:
    """Every snapshot from `start` on as a guide for the prompts that the policy at `start` fails.

    The policy itself, asked once more with other random numbers, is the point of Delta 0.
    """
    asked = run.ask(start, choose_mistakes(run.window(start, start + WINDOW), STARTS[start]), "who fails")
    failed = [rollout for rollout in asked if np.mean(rollout.correct) <= max(FAILED.values())]
    chosen = choose_mistakes(failed, MOST)
    points: dict[str, list[Point]] = {name: [] for name in FAILED}
    for step in (step for step in run.states if step >= start):
        rollouts = run.ask(step, [rollout.mistake for rollout in chosen], "guide")
        divergences = divergence(rollouts, guide=run.engine(step), policy=run.engine(start))
        for name, most in FAILED.items():
            inside = [i for i, rollout in enumerate(chosen) if np.mean(rollout.correct) <= most]
            kl = {key: np.concatenate([values[i] for i in inside]).mean() for key, values in divergences.items()}
            points[name].append(point(step - start, [rollouts[i] for i in inside], kl))
    say(f"seed {run.seed}, ahead of {start}: {len(asked)} prompts, {len(failed)} failed, {len(chosen)} asked again")
    return [Curve(f"ahead of {start}", name, run.seed, points[name]) for name in FAILED]


def divergence(rollouts: Sequence[Rollout], guide: Engine, policy: Engine) -> dict[str, list[np.ndarray]]:
    """Estimator -> for each prompt its terms of all tokens that the guide wrote, whose mean is KL(guide || policy)."""
    pairs = [(r.problem.prompt, tuple(c.token_ids)) for r in rollouts for c in r.completions]
    once = sorted(set(pairs))  # later guides often write the same twice
    found = {}
    for pair, g, p in zip(once, distributions(guide, once), distributions(policy, once), strict=True):
        log_r = (p - g)[np.arange(len(pair[1])), pair[1]]
        found[pair] = {"k3": np.expm1(log_r) - log_r, "k1": -log_r, "exact": (np.exp(g) * (g - p)).sum(1)}
    groups = [pairs[i : i + SAMPLES] for i in range(0, len(pairs), SAMPLES)]
    return {key: [np.concatenate([found[pair][key] for pair in group]) for group in groups] for key in ESTIMATORS}


def distributions(engine: Engine, pairs: Sequence[tuple[str, Sequence[int]]]) -> list[np.ndarray]:
    """Log-probabilities [token, vocabulary] of the model at each place of each completion."""
    import torch

    prompts = engine.tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    rows = [torch.tensor([*p, *c]) for p, (_, c) in zip(prompts, pairs, strict=True)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=engine.tokenizer.pad_token_id)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    with torch.inference_mode():
        logits = engine.model(input_ids=ids, attention_mask=mask).logits.double()
    logps = torch.log_softmax(logits, -1).numpy()
    return [row[len(p) - 1 : len(p) - 1 + len(c)] for row, p, (_, c) in zip(logps, prompts, pairs, strict=True)]


def point(delta: int, rollouts: Sequence[Rollout], kl: dict[str, float]) -> Point:
    lengths = [len(c.token_ids) for r in rollouts for c in r.completions]
    return Point(
        delta,
        len(rollouts),
        rate=float(np.mean([r.correct for r in rollouts])),
        solved=float(np.mean([any(r.correct) for r in rollouts])),
        length=float(np.mean(lengths)),
        kl={name: float(value) for name, value in kl.items()},
    )


def back(run: SavedRun, end: int, most: int, reach: int, name: str) -> Curve:
    """AutoNPO's own estimates at `end`, by its own function, for the snapshots up to `reach` updates before.

    At most `most` failures of its pool are probed.
    """
    mistakes = choose_mistakes(run.pool(end).since(end - reach), most)
    rollouts = run.ask(end, mistakes, name)
    earlier = {
        step: (id_, lambda step=step: run.engine(step)) for step, id_ in run.states.items() if reach >= end - step > 0
    }
    at = SnapshotRef(step=end, snapshot=run.states[end])
    found = estimate(rollouts, score(run.engine(end), rollouts), at, earlier, len(mistakes)).candidates
    later = [[r for r in rollouts if r.mistake.step > candidate.step] for candidate in found]
    pairs = [(c, those) for c, those in zip(found, later, strict=True) if those]
    points = [point(c.delta, those, {"k1": c.kl, "k3": c.kl_k3}) for c, those in pairs]
    say(f"seed {run.seed}, back from {end}: {len(mistakes)} failures asked ({name})")
    return Curve(f"back from {end}", name, run.seed, points[::-1])


def measure(folder: Path, seeds: Sequence[int]) -> list[Curve]:
    """All curves of all seeds."""
    curves, probe, most_back = [], AutoNPO().probe.prompts, AutoNPO().choice.max_delta
    for seed in seeds:
        run = SavedRun(folder / f"early/grpo-s{seed}", seed)
        for start in STARTS:
            curves += ahead(run, start)
        for end in ENDS:
            curves += [back(run, end, MOST, end, POOL), back(run, end, probe, most_back, PROBE)]
    return curves


def parse_arguments() -> argparse.Namespace:
    home = Path(os.environ.get("NPO_HOME", ".npo"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=home / "results", help="what `make results` left: early, auto")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", type=Path, help="keep the curves here")
    parser.add_argument("--write-docs", action="store_true", help="put tables and picture into docs/signal.md")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    import torch

    torch.set_num_threads(1)
    started, used = time.perf_counter(), time.process_time()
    curves = measure(options.runs.absolute(), options.seeds)
    say(f"{time.perf_counter() - started:.0f} s, {time.process_time() - used:.0f} CPU s")
    if options.json:
        options.json.write_text(json.dumps([asdict(curve) for curve in curves]))
    print(page(curves, options.runs.absolute()))
    if options.write_docs:
        write(curves, options.runs.absolute(), Path(__file__).parents[1] / "docs")


if __name__ == "__main__":
    main()
