"""Measures the whole early-bootstrap flow against a bare TRL run of as many optimizer steps.

    python -m benchmarks.flow [--pairs 2] [--quick] [--json]

The flow: `npo run early-bootstrap` with a Prefect server of its own: scout, guidance, replay, the rest, snapshots,
evaluation, report. The other side: `benchmarks.bare_trl` with scout + replay + rest steps, without checkpoints and
evaluation. Both are processes of their own from interpreter start to exit, in turn; the base model is there beforehand,
and so is the server's database. Where the flow's time goes is read from what its stages left.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.common import (
    ROOT,
    Check,
    base_folder,
    demo_config,
    finish,
    in_words,
    markdown,
    parser,
    say,
    settle,
    spread,
)
from npo_core.config import RunConfig
from npo_core.stages.forked import environment

TARGET = 1.25


@dataclass(frozen=True)
class Window:
    """A process: seconds since the epoch at its start and its end, and CPU seconds with all that it started."""

    started: float
    ended: float
    cpu: float

    @property
    def seconds(self) -> float:
        return self.ended - self.started


def run_process(command: list[str], config: RunConfig, extra: dict[str, str]) -> Window:
    """Run a command to its end; its output is shown only when it fails."""
    started, used = time.time(), cpu_of_children()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(config.execution) | extra,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return Window(started, time.time(), cpu_of_children() - used)


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_flow(config: RunConfig, folder: Path, number: int) -> tuple[Window, Path]:
    """The flow as a person starts it."""
    workspace = folder / f"flow-{number}"
    command = [
        str(Path(sys.executable).with_name("npo")),
        "run",
        "early-bootstrap",
        "--config",
        str(folder / "config.yaml"),
        "--workspace",
        str(workspace),
    ]
    return run_process(command, config, prefect_environment(folder)), workspace


def prefect_environment(folder: Path) -> dict[str, str]:
    """A server database of its own, which earlier runs have not filled."""
    return {"PREFECT_HOME": str(folder / "prefect")}


def run_bare(config: RunConfig, folder: Path, model: Path) -> Window:
    command = [
        sys.executable,
        "-m",
        "benchmarks.bare_trl",
        str(folder / "config.yaml"),
        str(model),
        str(total_steps(config)),
        str(folder / "bare"),
    ]
    return run_process(command, config, {})


def total_steps(config: RunConfig) -> int:
    """Optimizer steps of the flow: the scout's and those of the final branch."""
    return config.bootstrap.scout_steps + config.training.steps


def make_database(config: RunConfig, folder: Path) -> None:
    """Start a server once, so that no run pays for making its database."""
    code = "from flows.server import local_server\nwith local_server(): pass"
    run_process([sys.executable, "-c", code], config, prefect_environment(folder))


def measure(config: RunConfig, folder: Path, pairs: int) -> dict:
    """Both sides in turn, the order swapped every pair."""
    model = base_folder(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    make_database(config, folder)
    flows: list[tuple[Window, Path]] = []
    bare: list[Window] = []
    sides = [
        lambda n: flows.append(run_flow(config, folder, n)),
        lambda n: bare.append(run_bare(config, folder, model)),
    ]
    for number in range(pairs):
        for side in sides if number % 2 == 0 else reversed(sides):
            side(number)
        say(
            f"flow: pair {number + 1}/{pairs}  flow {flows[-1][0].seconds:.1f} s, bare TRL {bare[-1].seconds:.1f} s, "
            f"ratio {flows[-1][0].seconds / bare[-1].seconds:.3f}"
        )
    from benchmarks.flow_parts import parts

    best = min(flows, key=lambda run: run[0].seconds)
    return {
        "steps": total_steps(config),
        "flow_seconds": spread([window.seconds for window, _ in flows]),
        "bare_seconds": spread([window.seconds for window in bare]),
        "flow_cpu_seconds": spread([window.cpu for window, _ in flows]),
        "bare_cpu_seconds": spread([window.cpu for window in bare]),
        "ratio": spread([a.seconds / b.seconds for (a, _), b in zip(flows, bare, strict=True)]),
        "parts": parts(best[1], best[0].started, best[0].ended),
    }


def as_text(figures: dict) -> str:
    head = f"{figures['steps']} optimizer steps on both sides"
    rows = [
        ["early-bootstrap flow, s", in_words(figures["flow_seconds"], digits=1)],
        ["bare TRL, s", in_words(figures["bare_seconds"], digits=1)],
        ["ratio", in_words(figures["ratio"])],
        ["CPU seconds of all processes, flow", in_words(figures["flow_cpu_seconds"], digits=1)],
        ["CPU seconds, bare TRL", in_words(figures["bare_cpu_seconds"], digits=1)],
    ]
    where = markdown(
        ["where the fastest flow's time goes", "seconds", "share"],
        [
            [name, f"{seconds:.2f}", f"{seconds / figures['flow_seconds']['min']:.1%}"]
            for name, seconds in figures["parts"].items()
        ],
    )
    return f"{markdown([head, 'median (least to most)'], rows)}\n\n{where}"


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--pairs", type=int)
    options = options.parse_args()
    config = demo_config(options.quick, name="benchmark")
    settle(config)
    os.environ.pop("PREFECT_API_URL", None)  # a configured server would be used instead of the flow's own
    with tempfile.TemporaryDirectory(prefix="npo-flow-") as folder:
        figures = measure(config, Path(folder), options.pairs or (1 if options.quick else 2))
    checks = [Check("early-bootstrap flow / bare TRL of as many steps", figures["ratio"]["median"], TARGET)]
    return finish(figures, checks, as_text(figures), options)


if __name__ == "__main__":
    sys.exit(main())
