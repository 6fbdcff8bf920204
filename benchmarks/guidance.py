"""Measures what a cached trajectory costs, with and without early stopping and skipping, on a real scout segment.

    python -m benchmarks.guidance [--seeds 3] [--quick] [--json]

One scout segment of the demo; then the guidance stage in each way with the same seeds. Coverage Q and the price of a
trajectory count only prompts that the scout failed (pass rate below the gate): the others never take guidance.
"""

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import Check, Ground, demo_config, finish, markdown, parser, say, settle
from npo_core.guidance.cache import GuidanceCache
from npo_core.timeline.segments import read_outcomes

ALL = {"samples": 8, "samples_per_round": 8, "stop_at_first_correct": False}
NAIVE = "all 8 samples, every prompt"
BOTH = "both (default)"
WAYS = {
    NAIVE: ALL | {"skip_passed": False},
    "stop at the first correct": {"skip_passed": False},
    "skip what the scout passed": ALL,
    BOTH: {},
    "both, ladder of three guides": {},
}


def measure(ground: Ground, scout: dict, ladder: list[int], seeds: int) -> dict[str, dict]:
    """Way -> means over seeds; ways take turns."""
    failing = failing_prompts(ground, scout)
    found: dict[str, list[dict]] = {way: [] for way in WAYS}
    for seed in range(seeds):
        for way, changes in WAYS.items():
            guides = ladder if "ladder" in way else ladder[-1:]
            settings = ground.config.guidance.model_dump() | changes
            result = ground.guide(scout, guides, guidance=settings, seed=seed)
            found[way].append(figures(ground, result, failing))
            say(f"guidance: seed {seed + 1}/{seeds}, {way}: {found[way][-1]['tokens']:.1f} tokens a trajectory")
    return {way: {name: statistics.mean(run[name] for run in runs) for name in runs[0]} for way, runs in found.items()}


def failing_prompts(ground: Ground, scout: dict) -> set[str]:
    """Prompts whose last pass rate in the scout segment is below the gate."""
    segment = ground.workspace.timeline.segment(scout["segment"])
    rates = {row["prompt_id"]: row["pass_rate"] for row in read_outcomes(ground.workspace.store, segment).to_pylist()}
    return {id_ for id_, rate in rates.items() if rate < ground.config.injection.tau_gate}


def figures(ground: Ground, result: dict, failing: set[str]) -> dict[str, float]:
    """Of one cache: what its trajectories for failing prompts cost."""
    useful = sum(id_ in failing for id_ in GuidanceCache.open(ground.workspace.guidance(result["cache"])).ids())
    cost = result["cost"]
    return {
        "coverage": useful / len(failing),
        "tokens": cost["tokens_generated"] / max(useful, 1),
        "samples": cost["samples"] / max(useful, 1),
        "all_tokens": cost["tokens_generated"],
        "trajectories": float(useful),
        "asked": float(result["asked"]),
        "seconds": cost["seconds"],
    }


def as_text(found: dict[str, dict], prompts: int, failing: int) -> str:
    naive = found[NAIVE]
    rows = [
        [
            way,
            f"{f['asked']:.0f}",
            f"{f['coverage']:.3f}",
            f"{f['trajectories']:.0f}",
            f"{f['samples']:.1f}",
            f"{f['tokens']:.1f}",
            f"{f['tokens'] / naive['tokens']:.2f}",
            f"{f['seconds']:.2f}",
            f"{f['seconds'] / naive['seconds']:.2f}",
        ]
        for way, f in found.items()
    ]
    head = [
        "way",
        "prompts asked",
        "Q",
        "trajectories",
        "samples a trajectory",
        "tokens a trajectory",
        "to naive",
        "seconds",
        "to naive",
    ]
    return f"{markdown(head, rows)}\n\nThe scout met {prompts} prompts and failed {failing} of them; means over seeds."


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int)
    options = options.parse_args()
    config = demo_config(options.quick)
    settle(config)
    until = config.bootstrap.scout_steps
    ladder = [until // 3, 2 * until // 3, until]
    with tempfile.TemporaryDirectory(prefix="npo-guidance-") as folder:
        say("guidance: base model and scout")
        ground = Ground(config, Path(folder) / "run")
        scout = ground.train("scout", until)
        warm: Any = ground.guide(scout, [until], seed=10**6)  # imports and allocations, measured with nobody
        found = measure(ground, scout, ladder, options.seeds or (1 if options.quick else 3))
        text = as_text(found, warm["asked"] + warm["skipped"], len(failing_prompts(ground, scout)))
    checks = [Check("tokens a trajectory, default / naive", found[BOTH]["tokens"] / found[NAIVE]["tokens"])]
    return finish({"ways": found}, checks, text, options)


if __name__ == "__main__":
    sys.exit(main())
