"""A configuration through the stages on the device at hand, and what they left, for `benchmarks.gpu_check`."""

import statistics
from pathlib import Path

from benchmarks.common import BenchRun
from benchmarks.flow_parts import PHASES
from npo_core.config import RunConfig
from npo_core.stages.launch import run_stage
from npo_core.stages.prove import prove_replay
from npo_core.stages.results import TrainResult
from npo_core.timeline.segments import read_steps


def through_stages(config: RunConfig, folder: Path) -> dict[str, str]:
    """Scout, guidance, guided replay and evaluation as processes; then the proof. Name -> finding."""
    bench = BenchRun(config, folder, stage=lambda spec: run_stage(spec).result)
    until = config.bootstrap.scout_steps
    scout = bench.train("scout", until)
    guidance = bench.guide(scout, [until])
    replay = bench.train("replay", until, cache=guidance.cache)
    scores = bench.stage(bench.run.evaluate([bench.base, scout.end, replay.end])).scores
    rates = [f"{score.pass_rate:.3f}" for score in scores]
    injected = sum(row["groups_injected"] or 0.0 for row in rows(bench, replay))
    found = {
        f"pass rate: base, scout at {until}, guided replay at {until}": ", ".join(rates),
        "guidance: trajectories, coverage Q": f"{guidance.rows}, {guidance.coverage:.3f}",
        "groups injected in the replay": f"{injected / (until * config.training.prompts_per_step):.1%}",
        "ms a step, median: scout, replay": ", ".join(f"{step_ms(bench, part):.1f}" for part in (scout, replay)),
    }
    proof = prove_replay(bench.workspace.uri, segment=scout.segment)
    for row in proof["compared"]:
        what = row["what"].split(":")[0]
        found[f"replayed bit for bit: {what}"] = "yes" if row["equal"] else f"no: {row['detail']}"
    return found


def rows(bench: BenchRun, part: TrainResult) -> list[dict]:
    return read_steps(bench.workspace.store, bench.workspace.timeline.segment(part.segment)).to_pylist()


def step_ms(bench: BenchRun, part: TrainResult) -> float:
    """Generation, verification, forward and backward of a step; the first ones warm up."""
    seconds = [sum(row[phase] or 0.0 for phase in PHASES) for row in rows(bench, part)]
    return 1000 * statistics.median(seconds[len(seconds) // 4 :])
