"""A configuration through the stages on the device at hand, and what they left, for `benchmarks.gpu_check`."""

import statistics
from pathlib import Path

from benchmarks.common import Ground
from benchmarks.flow_parts import PHASES
from npo_core.config import RunConfig
from npo_core.stages.launch import run_stage
from npo_core.stages.prove import prove_replay
from npo_core.timeline.segments import read_steps


def through_stages(config: RunConfig, folder: Path) -> dict[str, str]:
    """Scout, guidance, guided replay and evaluation as processes; then the proof. Name -> finding."""
    ground = Ground(config, folder, stage=lambda spec: run_stage(spec).result)
    until = config.bootstrap.scout_steps
    scout = ground.train("scout", until)
    guidance = ground.guide(scout, [until])
    replay = ground.train("replay", until, cache=guidance["cache"])
    scores = ground.stage(ground.run.evaluate([ground.base, scout["end"], replay["end"]]))["scores"]
    rates = [f"{score['pass_rate']:.3f}" for score in scores]
    injected = sum(row["groups_injected"] or 0.0 for row in rows(ground, replay))
    found = {
        f"pass rate: base, scout at {until}, guided replay at {until}": ", ".join(rates),
        "guidance: trajectories, coverage Q": f"{guidance['rows']}, {guidance['coverage']:.3f}",
        "groups injected in the replay": f"{injected / (until * config.training.prompts_per_step):.1%}",
        "ms a step, median: scout, replay": ", ".join(f"{step_ms(ground, part):.1f}" for part in (scout, replay)),
    }
    proof = prove_replay(ground.workspace.uri, segment=scout["segment"])
    for row in proof["compared"]:
        what = row["what"].split(":")[0]
        found[f"replayed bit for bit: {what}"] = "yes" if row["equal"] else f"no: {row['detail']}"
    return found


def rows(ground: Ground, part: dict) -> list[dict]:
    return read_steps(ground.workspace.store, ground.workspace.timeline.segment(part["segment"])).to_pylist()


def step_ms(ground: Ground, part: dict) -> float:
    """Generation, verification, forward and backward of a step; the first ones warm up."""
    seconds = [sum(row[phase] or 0.0 for phase in PHASES) for row in rows(ground, part)]
    return 1000 * statistics.median(seconds[len(seconds) // 4 :])
