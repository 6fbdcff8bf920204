"""Measures what a run pays besides training: the start of stages, of the Prefect server, a Prefect task, a refusal.

    python -m benchmarks.fixed [--times 5] [--quick] [--json]

A stage that has nothing to do evaluates no snapshot; its wall time is what any stage pays. In a new interpreter that
includes torch, but not transformers and trl, which a training stage imports on top. Server, tasks and artifacts are
measured in a process of their own.
"""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, Check, demo_config, finish, in_words, markdown, parser, say, settle, spread
from npo_core.config import RunConfig

IMPORTS = {
    "npo_core.stages.launch": "launching stages",
    "prefect": "Prefect",
    "flows.early_bootstrap": "the flow and its tasks",
    "benchmarks.bare_trl": "torch, transformers and trl, as a bare script does",
}

FORKED = "stage with nothing to do, forked"
REFUSED, MOST_S = "a run is refused for ", 3.0  # what it may take on a machine that does nothing else
ROWS = "problems={kind: data, train: {path: rows.jsonl}, held_out_rows: 1}"


def stage_starts(config: RunConfig, folder: Path, times: int) -> dict[str, list[float]]:
    """Seconds of a stage without work: forked from the preloaded parent, and in a new interpreter."""
    from npo_core.recipes.run import Run
    from npo_core.stages.forked import fork_server
    from npo_core.stages.launch import run_stage
    from npo_core.stages.workspace import Workspace

    def nothing(start: str, number: int) -> float:
        execution = config.execution.model_copy(update={"start": start})
        spec = Run(config.model_copy(update={"execution": execution}), Workspace(folder)).evaluate([])
        spec = spec.model_copy(update={"max_completion_tokens": number})  # another fingerprint, the same nothing
        started = time.perf_counter()
        run_stage(spec)
        return time.perf_counter() - started

    server = fork_server(config.execution)
    first = nothing("fork", 1000)  # waits for the parent's imports
    found = {
        "fork server: imports, once a run": [first],
        FORKED: [nothing("fork", n) for n in range(1, times + 1)],
        "stage with nothing to do, new interpreter": [nothing("spawn", 100 + n) for n in range(times)],
    }
    server.close()
    return found


def imports(times: int) -> dict[str, list[float]]:
    """Seconds that an interpreter takes to start and import what each side needs."""
    found = {}
    for modules, name in IMPORTS.items():
        command = [sys.executable, "-c", f"import {modules}"]
        seconds = []
        for _ in range(times):
            started = time.perf_counter()
            subprocess.run(command, check=True, cwd=ROOT)
            seconds.append(time.perf_counter() - started)
        found[f"interpreter and import of {name}"] = seconds
    return found


def refusals(config: RunConfig, folder: Path, times: int) -> dict[str, list[float]]:
    """Seconds from the command to its sentence where a run is refused, each by a process as a person starts it."""
    from npo_core.recipes.run import Run
    from npo_core.stages.workspace import Workspace
    from npo_core.timeline import workspace_lock

    taken, mine = Workspace(folder / "taken"), folder / "config.json"
    taken.bind(config)
    taken.store.write_json(f"{Run(config, taken).evaluate([]).folder}/result.json", {})
    mine.write_text(config.model_dump_json())
    gone = "model={kind: pretrained, path: /no/such/model}"
    given = {
        "a field that is none": (["--set", "training.stepz=3"], folder / "new", 64),
        "a model that is not there": (["--set", gone, "--set", ROWS], folder / "new", 64),
        "another configuration": (["--set", f"seed={config.seed + 1}"], taken.uri, 64),
        "a workspace in use": ([], taken.uri, 75),
    }
    found = {}
    for name, (options, workspace, code) in given.items():
        with workspace_lock(taken.store, owner="benchmark") if code == 75 else nullcontext():
            found[REFUSED + name] = [refused(mine, options, workspace, code) for _ in range(times)]
    return found


def refused(config: Path, options: list[str], workspace: Path | str, code: int) -> float:
    """Seconds of a run that ends with an exit code at once."""
    command = [sys.executable, "-m", "npo_core", "run", "grpo", "--config", str(config), "--workspace", str(workspace)]
    started = time.perf_counter()
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode != code:
        raise RuntimeError(f"{' '.join(options)} ended with {done.returncode}, not {code}: {done.stderr}")
    return seconds


def prefect_costs(folder: Path) -> dict[str, list[float]]:
    """Server, tasks and artifacts, from a process of their own."""
    command = [sys.executable, "-m", "benchmarks.fixed", "--prefect", str(folder)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout)


def measure_prefect(folder: str) -> dict[str, list[float]]:
    """Start the server twice; then an empty flow, and one whose tasks do nothing or only publish a table."""
    import os

    from flows.run import send_pending
    from flows.server import local_server

    os.environ["PREFECT_HOME"] = folder
    found: dict[str, list[float]] = {}

    def clock(name: str, since: float) -> None:
        found.setdefault(name, []).append(time.perf_counter() - since)

    for name in ("Prefect server: start, first time (makes the database)", "Prefect server: start"):
        started = time.perf_counter()
        with local_server():
            clock(name, started)
            if name.endswith("start"):
                run_empty_flows(clock)
                started = time.perf_counter()
                send_pending()
                clock("Prefect logs and events sent before the end", started)
            started = time.perf_counter()
        clock("Prefect server: end", started)
    return found


def run_empty_flows(clock: Any) -> None:
    """Flows of tasks that do nothing, called as the project's flows call theirs."""
    from prefect import flow, task
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from tasks.artifacts import publish, table

    @task
    def nothing() -> None: ...

    @task
    def tell() -> None:
        publish("benchmark", "A table", table({"a": 1, "b": 2}))

    @flow
    def call(which: Any, times: int) -> None:
        for _ in range(times):
            started = time.perf_counter()
            which.with_options(retries=2, retry_delay_seconds=5)()
            clock(f"Prefect task that {'publishes an artifact' if which is tell else 'does nothing'}", started)

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        call(nothing, 1)  # connections
        started = time.perf_counter()
        call(nothing, 0)
        clock("Prefect flow without tasks", started)
        call(nothing, 10)
        call(tell, 10)


def measure(config: RunConfig, times: int) -> dict[str, dict[str, float]]:
    """Name -> least, median and most seconds."""
    with tempfile.TemporaryDirectory(prefix="npo-fixed-") as folder:
        say("fixed: imports")
        found = imports(times)
        say("fixed: starts of stages")
        found |= stage_starts(config, Path(folder) / "run", times)
        say("fixed: refusals")
        found |= refusals(config, Path(folder), times)
        say("fixed: Prefect server, flow, tasks")
        found |= prefect_costs(Path(folder) / "prefect")
    return {name: spread(seconds) for name, seconds in found.items()}


def as_text(figures: dict[str, dict[str, float]]) -> str:
    rows = [[name, in_words(seconds)] for name, seconds in figures.items()]
    return markdown(["fixed cost", "seconds: median (least to most)"], rows)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--times", type=int)
    options.add_argument("--prefect", metavar="FOLDER", help="measure Prefect alone, with its files in FOLDER")
    options = options.parse_args()
    config = demo_config(options.quick)
    settle(config)
    if options.prefect:
        print(json.dumps(measure_prefect(options.prefect)))
        return 0
    figures = measure(config, options.times or (1 if options.quick else 5))
    checks = [Check(FORKED, figures[FORKED]["median"], unit=" s")]
    checks += [Check(n, f["median"], MOST_S, " s") for n, f in figures.items() if n.startswith(REFUSED)]
    return finish({"seconds": figures}, checks, as_text(figures), options)


if __name__ == "__main__":
    sys.exit(main())
