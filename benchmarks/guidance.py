"""Measures what a cached trajectory costs, with and without early stopping and skipping, on a real scout segment.

    python -m benchmarks.guidance [--seeds 3] [--quick] [--json]
    python -m benchmarks.guidance --dealt 5    # rounds of two processes against one, and nothing else

One scout segment of the demo; then the guidance stage in each way with the same seeds. Coverage Q and the price of a
trajectory count only prompts that the scout failed (pass rate below the gate): the others never take guidance.
"""

import gc
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.common import ROOT, BenchRun, Check, demo_config, finish, markdown, parser, say, settle
from benchmarks.guidance_dealt import as_text as dealt_text
from benchmarks.guidance_dealt import check as dealt_check
from benchmarks.guidance_dealt import dealt
from benchmarks.guidance_speed import as_text as speed_text
from benchmarks.guidance_speed import speed
from npo_core.guidance.cache import GuidanceCache
from npo_core.stages.results import GuideResult, TrainResult
from npo_core.timeline.segments import read_outcomes

ALL = {"samples": 8, "samples_per_round": 8, "stop_at_first_correct": False}
VLLM = Path(os.environ.get("NPO_VLLM_PYTHON", ROOT / ".venv-vllm/bin/python"))
NAIVE = "all 8 samples, every prompt"
BOTH = "both (default)"
WAYS = {
    NAIVE: ALL | {"skip_passed": False},
    "stop at the first correct": {"skip_passed": False},
    "skip what the scout passed": ALL,
    BOTH: {},
    "both, ladder of three guides": {},
}


def measure(bench: BenchRun, scout: TrainResult, ladder: list[int], seeds: int) -> dict[str, dict]:
    """Way -> means over seeds; ways take turns."""
    failing = failing_prompts(bench, scout)
    found: dict[str, list[dict]] = {way: [] for way in WAYS}
    for seed in range(seeds):
        for way, changes in WAYS.items():
            if "ladder" in way and bench.config.engine.kind == "vllm":
                continue  # the weights of three guides are loaded in turn, which takes longer than all else here
            guides = ladder if "ladder" in way else ladder[-1:]
            settings = bench.config.guidance.model_dump() | changes
            result = bench.guide(scout, guides, guidance=settings, seed=seed)
            found[way].append(figures(bench, result, failing))
            say(f"guidance: seed {seed + 1}/{seeds}, {way}: {found[way][-1]['tokens']:.1f} tokens a trajectory")
    return {w: {name: statistics.mean(r[name] for r in runs) for name in runs[0]} for w, runs in found.items() if runs}


def failing_prompts(bench: BenchRun, scout: TrainResult) -> set[str]:
    """Prompts whose last pass rate in the scout segment is below the gate."""
    segment = bench.workspace.timeline.segment(scout.segment)
    rates = {row["prompt_id"]: row["pass_rate"] for row in read_outcomes(bench.workspace.store, segment).to_pylist()}
    return {id_ for id_, rate in rates.items() if rate < bench.config.injection.tau_gate}


def figures(bench: BenchRun, result: GuideResult, failing: set[str]) -> dict[str, float]:
    """Of one cache: what its trajectories for failing prompts cost."""
    useful = sum(id_ in failing for id_ in GuidanceCache.open(bench.workspace.guidance(result.cache)).ids())
    cost = result.cost
    return {
        "coverage": useful / len(failing),
        "tokens": cost.tokens_generated / max(useful, 1),
        "samples": cost.samples / max(useful, 1),
        "all_tokens": cost.tokens_generated,
        "trajectories": float(useful),
        "asked": float(result.asked),
        "seconds": cost.seconds,
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


def begun(quick: bool, folder: Path, **changes) -> tuple[BenchRun, TrainResult, GuideResult]:
    """A run with its scout and a first guidance: imports and allocations, measured with nobody."""
    config = demo_config(quick, **changes)
    until = config.bootstrap.scout_steps
    say(f"guidance: {config.engine.kind}, base model and scout")
    bench = BenchRun(config, folder)
    scout = bench.train("scout", until)
    warm = bench.guide(scout, [until], seed=10**6)
    gc.freeze()  # as the process does that stages are forked from
    return bench, scout, warm


def one_engine(options, folder: Path, **changes) -> tuple[dict, dict, str, list[Check]]:
    """Ways and speed of one engine on a scout of its own, as figures, text and checks."""
    bench, scout, warm = begun(options.quick, folder, **changes)
    name, until = bench.config.engine.kind, bench.config.bootstrap.scout_steps
    ladder = [until // 3, 2 * until // 3, until]
    ways = measure(bench, scout, ladder, options.seeds or (1 if options.quick else 3))
    fast = speed(bench, scout, until, 1 if options.quick else 5)
    text = as_text(ways, warm.asked + warm.skipped, len(failing_prompts(bench, scout)))
    both, naive = ways[BOTH], ways[NAIVE]
    price = [way["seconds"] / way["trajectories"] for way in (both, naive)]
    checks = [
        Check(f"tokens a trajectory, default / naive, {name}", both["tokens"] / naive["tokens"], 0.5),
        Check(f"seconds a trajectory, default / naive, {name}", price[0] / price[1], 0.5),
        Check(f"seconds a token, stage / plain loop, {name}", 1 / fast["ratio"]["median"], 1 / 0.95),
    ]
    if name == "transformers":
        two = dealt(bench, scout, until, 1 if options.quick else 5)
        checks.append(dealt_check(two))
        text, fast = f"{text}\n\n{dealt_text(two)}", fast | {"two processes": two}
    return ways, fast, f"{name}:\n\n{text}", checks


def only_dealt(options) -> int:
    """Two processes against one."""
    with tempfile.TemporaryDirectory(prefix="npo-guidance-") as folder:
        bench, scout, _ = begun(options.quick, Path(folder))
        two = dealt(bench, scout, bench.config.bootstrap.scout_steps, options.dealt)
    return finish({"two processes": two}, [dealt_check(two)], dealt_text(two), options)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int)
    options.add_argument("--dealt", type=int, metavar="ROUNDS", help="two processes against one, and nothing else")
    options = options.parse_args()
    settle(demo_config(options.quick))
    if options.dealt:
        return only_dealt(options)
    engines = {"transformers": {}}
    if VLLM.exists():  # its attention on a CPU knows heads of 32, not of the demo's 24
        engines["vllm"] = {
            "model__heads": 1 if options.quick else 3,
            "engine__kind": "vllm",
            "engine__python": str(VLLM),
        }
    with tempfile.TemporaryDirectory(prefix="npo-guidance-") as folder:
        found = {name: one_engine(options, Path(folder) / name, **changes) for name, changes in engines.items()}
    text = "\n\n".join([part[2] for part in found.values()] + [speed_text({n: part[1] for n, part in found.items()})])
    if not VLLM.exists():
        text += "\n\nvLLM was left out: `make setup-vllm` makes its environment."
    ways = {name: {"ways": part[0], "speed": part[1]} for name, part in found.items()}
    return finish(ways, [check for part in found.values() for check in part[3]], text, options)


if __name__ == "__main__":
    sys.exit(main())
