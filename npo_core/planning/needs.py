"""Bytes that a run needs beside the bytes that there are, and how they compare."""

from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Literal

from npo_core.planning.disk import disk, least_disk, there
from npo_core.planning.machine import GIB, Machine
from npo_core.planning.memory import host, stage_memory
from npo_core.planning.setting import Setting
from npo_core.recipes.counting import count

BAND = 0.25  # how far memory estimates may be off; see docs/planning.md
Verdict = Literal["fits", "close", "too much", "unknown"]


@dataclass(frozen=True)
class Need:
    """Bytes that something takes, by part, beside the bytes that there are."""

    what: str  # train, guide, probe, evaluate, host or disk
    parts: dict[str, float]
    limit: float | None
    verdict: Verdict
    phase: str = ""  # of the stage, the one that takes most

    @property
    def total(self) -> float:
        """The sum of the parts, bytes."""
        return sum(self.parts.values())


def find_needs(setting: Setting, machine: Machine, flow: str, folder: Path | None) -> list[Need]:
    """Memory of each stage, of the machine where a GPU trains, and disk."""
    stages = count(setting.config, flow, folder)
    names = {stage.stage for stage in stages}
    least = {memory.stage: memory.peak for memory in stage_memory(replace(setting, longest_prompts=False), names)}
    needs = []
    for memory in stage_memory(setting, names):
        limit = machine.memory and machine.memory * share(setting, memory.stage)
        found = verdict(memory.peak, limit, least[memory.stage] / (1 + BAND))
        needs.append(Need(memory.stage, memory.parts, limit, found, memory.worst))
    if setting.device == "cuda":
        needed = host(setting)
        needs.append(
            Need("host", {"weights": needed}, machine.host, verdict(needed, machine.host, needed / (1 + BAND)))
        )
    parts, held = disk(setting, stages), there(folder)
    limit = None if machine.disk is None else machine.disk + held
    return [*needs, Need("disk", parts, limit, verdict(sum(parts.values()), limit, least_disk(setting, stages)))]


def share(setting: Setting, stage: str) -> float:
    """The part of a device's memory that a stage's process may take: vLLM has its own, processes share a CPU's."""
    engine = setting.config.engine
    if setting.device == "cpu":
        one = {"train": setting.processes, "base": 1}
        return 1 / one.get(stage, setting.generating_here)
    if stage == "train":
        return 1 - engine.rollout_memory if engine.rollouts else 1.0
    return 1 - engine.memory if engine.kind == "vllm" else 1.0


def verdict(need: float, limit: float | None, least: float) -> Verdict:
    """`least` is what is needed in any case: of memory, with empty prompts and an estimate that is too high."""
    if limit is None:
        return "unknown"
    if need <= limit:
        return "fits"
    return "close" if least <= limit else "too much"


def in_gib(size: float) -> str:
    """Bytes in GiB, or in MiB below a tenth of one."""
    return f"{size / GIB:,.1f} GiB" if size >= GIB / 10 else f"{ceil(size / 2**20):,} MiB"
