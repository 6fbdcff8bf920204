"""Runs all measurements in turn and says which targets are met.

    python -m benchmarks [--quick] [--only steps flow] [--json FILE] [--write-docs]

A full run takes about half an hour on two cores and wants them for itself; the exit code is 1 where a target is
missed. `--quick` runs everything once at sizes that measure nothing, to show that it works. `--write-docs` puts the
figures into docs/benchmarks.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.cache import OPEN_LIMIT_S, PEAK_LIMIT_MB, PHASES
from benchmarks.common import ROOT, Check, base_folder, demo_config, markdown, say, settle

DOCS = ROOT / "docs/benchmarks.md"
START, END = "<!-- latest run: start -->", "<!-- latest run: end -->"
TITLES = {
    "cache": "A guidance cache of a million rows",
    "steps": "An update against TRL's",
    "flow": "The whole flow",
    "fixed": "Fixed costs",
    "snapshots": "A snapshot",
    "guidance": "Guidance",
    "control_cost": "What AutoNPO's control costs",
    "verifiers": "Verifiers",
    "plan": "The plan beside what is taken",
}
QUICK_CACHE = ["--rows", "4096", "--tokens", "16", "--prompts", "100"]


def run_one(name: str, quick: bool) -> dict:
    """Run one measurement in a process of its own and return what it printed as JSON."""
    say(f"-- {name}: {TITLES[name]}")
    started = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{name}", "--json"]
    command += (QUICK_CACHE if name == "cache" else ["--quick"]) if quick else ["--whole"] if name == "steps" else []
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1) or not done.stdout.strip():
        sys.exit(f"benchmarks.{name} ended with {done.returncode} before it had a result")
    result = json.loads(done.stdout.splitlines()[-1])
    if name == "cache":
        result |= cache_checks(result)
    return result | {"wall_s": time.perf_counter() - started}


def cache_checks(result: dict) -> dict:
    """The cache's figures in the form of the others."""
    checks = [
        Check(f"guidance cache, peak memory to {phase}", result[phase]["peak_mb"], PEAK_LIMIT_MB, " MB")
        for phase in PHASES
    ]
    checks.append(Check("guidance cache, seconds to open it warm", result["open"]["open_warm_s"], OPEN_LIMIT_S, " s"))
    rows = [
        [phase, name, f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"]
        for phase in PHASES
        for name, value in result[phase].items()
    ]
    return {"checks": [check.as_dict() for check in checks], "text": markdown(["phase", "figure", "value"], rows)}


def machine() -> dict[str, str]:
    """Where the figures come from."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    packages = " ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "prefect"))
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": f"{model}, {os.cpu_count()} cores",
        "load at the start": load,
        "versions": f"Python {platform.python_version()} {packages}",
    }


def summary(results: dict[str, dict], judged: bool = True) -> str:
    """One row a check; sizes that measure nothing are not judged."""
    rows = []
    for name, result in results.items():
        for check in result["checks"]:
            target = f"at most {check['target']:g}{check['unit']}" if check["target"] is not None else "-"
            rows.append(
                [
                    name,
                    check["name"],
                    target,
                    f"{check['measured']:.3f}{check['unit']}",
                    check["verdict"] if judged else "-",
                ]
            )
    return markdown(["measurement", "what", "target", "measured", "verdict"], rows)


def as_page(results: dict[str, dict], where: dict[str, str]) -> str:
    """The generated part of docs/benchmarks.md."""
    head = "; ".join(f"{name}: {value}" for name, value in where.items())
    sections = [f"### {TITLES[name]}\n\n{result['text']}" for name, result in results.items()]
    return "\n\n".join([f"{head}.", summary(results), *sections])


def write_docs(page: str) -> None:
    text = DOCS.read_text()
    before, after = text.split(START)[0], text.split(END)[1]
    DOCS.write_text(f"{before}{START}\n\n{page}\n\n{END}{after}")


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="sizes that only show that everything works")
    parser.add_argument(
        "--only", nargs="+", choices=TITLES, default=list(TITLES), metavar="NAME", help=", ".join(TITLES)
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--write-docs", action="store_true", help="put the figures into docs/benchmarks.md")
    options = parser.parse_args(given)
    if options.write_docs and (options.quick or len(options.only) < len(TITLES)):
        parser.error("--write-docs wants a full run: leave out --quick and --only")
    return options


def main() -> int:
    options = parse_arguments()
    where = machine()
    config = demo_config(options.quick)
    settle(config)
    say("-- base model, made once and kept")
    base_folder(config)
    results = {name: run_one(name, options.quick) for name in TITLES if name in options.only}
    if options.json:
        options.json.write_text(json.dumps({"machine": where, "results": results}, indent=1))
    if options.write_docs:
        write_docs(as_page(results, where))
    print(summary(results, judged=False) if options.quick else as_page(results, where))
    missed = [check for result in results.values() for check in result["checks"] if not check["passed"]]
    return 1 if missed and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
