"""Measures what AutoNPO's control costs: watching, probes, decisions, and the restarts of training after them.

    python -m benchmarks.control_cost [--pairs 2] [--quick] [--json]

A run that probes at every warning and never intervenes (`auto.probe.min_solved` = 1) makes the same updates as plain
GRPO, bit for bit; both are processes of their own, in turn. What control took is read from what the stages left, and
the difference of the processes is set beside it. One run of the published rule shows what interventions cost. What an
update pays for being watched is measured in one process, every other update of which is watched.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import Check, base_folder, demo_config, finish, in_words, markdown, parser, say, settle, spread
from benchmarks.control_parts import CONTROL, EVALUATION, Parts, by_part, rows_of
from benchmarks.control_watch import watching
from benchmarks.flow import Window, make_database, prefect_environment, run_process
from npo_core.config import RunConfig

TARGET = 0.02
UPDATES = 320
# A tiny run that warns at every snapshot.
QUICK = {
    "training__steps": 16, "auto__cooldown": 2, "auto__probe__min_prompts": 1,
    "auto__control__trigger": {"window": 2, "warm_up": 2, "min_gain": 1.0, "min_entropy_drop": -1.0},
}  # fmt: skip


def run_one(flow: str, config: RunConfig, folder: Path, name: str) -> tuple[Window, Path]:
    """A flow as a person starts it, in a process of its own."""
    file, workspace = folder / f"{name}.yaml", folder / name
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [str(Path(sys.executable).with_name("npo")), "run", flow, "--config", str(file)]
    return run_process([*command, "--workspace", str(workspace)], config, prefect_environment(folder)), workspace


def compare(config: RunConfig, folder: Path, pairs: int) -> dict[str, Any]:
    """Plain GRPO and the run that never intervenes in turn, the order swapped every pair."""
    grpo: list[tuple[Window, Path]] = []
    auto: list[tuple[Window, Path]] = []
    sides = [lambda n: grpo.append(run_one("grpo", config, folder, f"grpo-{n}")),
             lambda n: auto.append(run_one("auto-npo", config, folder, f"auto-npo-{n}"))]  # fmt: skip
    for number in range(pairs):
        for side in sides if number % 2 == 0 else reversed(sides):
            side(number)
        times = f"grpo {grpo[-1][0].seconds:.1f} s, auto-npo {auto[-1][0].seconds:.1f} s"
        say(f"control_cost: pair {number + 1}/{pairs}  {times}")
    if rows_of(grpo[0][1]) != rows_of(auto[0][1]):
        sys.exit("the watched run made other updates than plain GRPO, so their times cannot be compared")
    parts = [by_part(a, g) for (_, a), (_, g) in zip(auto, grpo, strict=True)]
    return {
        "decisions": count(auto[0][1], "????.json"),
        "grpo_seconds": spread([window.seconds for window, _ in grpo]),
        "wall_ratio": spread([a.seconds / g.seconds for (a, _), (g, _) in zip(auto, grpo, strict=True)]),
        "cpu_ratio": spread([a.cpu / g.cpu for (a, _), (g, _) in zip(auto, grpo, strict=True)]),
        "share_seconds": spread([part.control_seconds for part in parts]),
        "share_tokens": spread([part.control_tokens for part in parts]),
        "parts": vars(parts[0]),
    }


def count(workspace: Path, pattern: str) -> int:
    return len(list((workspace / "decisions").glob(pattern)))


def intervene(config: RunConfig, folder: Path, plain: Path) -> dict[str, Any]:
    """One run of the published rule; `plain` is a GRPO run beside it."""
    say("control_cost: a run that intervenes")
    _, workspace = run_one("auto-npo", config, folder, "intervening")
    return {
        "decisions": count(workspace, "????.json"),
        "interventions": count(workspace, "????-outcome.json"),
        "parts": vars(by_part(workspace, plain)),
    }


def parts_table(parts: dict[str, dict[str, float]]) -> str:
    """Seconds and tokens of every part, and their shares; tokens of evaluations are in no share."""
    found = Parts(**parts)
    every = sum(found.seconds.values())
    spent = sum(tokens for name, tokens in found.tokens.items() if name != EVALUATION)
    rows = []
    for name, seconds in sorted(found.seconds.items(), key=lambda item: -item[1]):
        tokens = found.tokens.get(name, 0.0) if name != EVALUATION else 0.0
        rows.append([name, f"{seconds:.2f}", f"{seconds / every:.1%}", f"{tokens:,.0f}", f"{tokens / spent:.1%}"])
    control = sum(found.seconds.get(name, 0.0) for name in CONTROL)
    shares = f"{found.control_seconds:.1%}", "", f"{found.control_tokens:.1%}"
    rows.append(["control: probes, decisions, taking up again", f"{control:.2f}", *shares])
    return markdown(["part", "seconds", "share", "tokens", "share"], rows)


def as_text(figures: dict[str, Any]) -> str:
    quiet, acting, watched = (figures[name] for name in ("quiet", "intervening", "watching"))
    rows = [
        ["plain GRPO, s", in_words(quiet["grpo_seconds"], digits=1)],
        ["watched / plain, wall time of the processes", in_words(quiet["wall_ratio"])],
        ["watched / plain, CPU time of all processes", in_words(quiet["cpu_ratio"])],
        ["control's share of the time", in_words({k: 100 * v for k, v in quiet["share_seconds"].items()}, " %", 2)],
        ["control's share of the tokens", in_words({k: 100 * v for k, v in quiet["share_tokens"].items()}, " %", 2)],
        ["an update, not watched, CPU ms", f"{watched['plain_ms']:.2f}"],
        ["an update, watched, CPU ms", f"{watched['watched_ms']:.2f}"],
        ["of these the controller, ms", f"{watched['controller_ms']:.3f}"],
        ["the controller's file in a snapshot, ms", f"{watched['save_ms']:.2f}"],
        ["the controller's file in a snapshot, kB", f"{watched['save_kb']:.0f}"],
    ]
    return "\n\n".join([
        markdown([f"{figures['updates']} updates, {quiet['decisions']} probes, no intervention",
                  "median (least to most)"], rows),
        "Where the time of the run without interventions goes:", parts_table(quiet["parts"]),
        f"A run of the published rule, {acting['interventions']} interventions after {acting['decisions']} decisions:",
        parts_table(acting["parts"]),
    ])  # fmt: skip


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--pairs", type=int)
    options = options.parse_args()
    changes = {"name": "benchmark", **(QUICK if options.quick else {"training__steps": UPDATES})}
    defaults = demo_config(options.quick, **changes)
    declines = demo_config(options.quick, **changes, auto__probe__min_solved=1.0)
    settle(defaults)
    os.environ.pop("PREFECT_API_URL", None)  # a configured server would be used instead of the flow's own
    with tempfile.TemporaryDirectory(prefix="npo-control-") as folder:
        folder = Path(folder)
        base_folder(defaults)
        watched = watching(defaults, folder, 20 if options.quick else 120)
        make_database(defaults, folder)
        quiet = compare(declines, folder, options.pairs or (1 if options.quick else 2))
        acting = intervene(defaults, folder, folder / "grpo-0")
        figures = {"updates": defaults.training.steps, "watching": watched, "quiet": quiet, "intervening": acting}
    checks = [
        Check("control where it does not intervene, share of the time", quiet["share_seconds"]["median"], TARGET),
        Check("control where it does not intervene, share of the tokens", quiet["share_tokens"]["median"], TARGET),
        Check("watched run / plain GRPO, CPU time", quiet["cpu_ratio"]["median"]),
    ]
    return finish(figures, checks, as_text(figures), options)


if __name__ == "__main__":
    sys.exit(main())
