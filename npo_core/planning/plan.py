"""A plan: what a run needs beside what there is, what does not fit, and what to change."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any, Literal

from npo_core.config import RunConfig
from npo_core.planning.disk import disk, least_disk, there
from npo_core.planning.machine import GIB, Machine
from npo_core.planning.memory import host, stage_memory
from npo_core.planning.seconds import seconds
from npo_core.planning.setting import Setting
from npo_core.planning.size import ModelSize
from npo_core.planning.work import stages_of

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
        return sum(self.parts.values())


@dataclass(frozen=True)
class Stage:
    """What a stage does, at most. None: not known."""

    label: str
    stage: str
    updates: int
    completions: int | None
    tokens: int | None
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """Everything that `npo plan` prints. `changes` are sentences that name a field, its value and one that fits."""

    name: str
    flow: str
    model: dict[str, Any]
    machine: dict[str, Any]
    needs: list[Need]
    stages: list[Stage]
    assumptions: list[str]
    unknown: list[str]
    changes: list[str] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        """Whether anything is so much too large that the error of the estimate does not explain it."""
        return any(need.verdict == "too much" for need in self.needs)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        needs = [{**asdict(need), "total": need.total} for need in self.needs]
        return {**asdict(self), "needs": needs, "refused": self.refused}


def make_plan(
    config: RunConfig,
    size: ModelSize | str,
    machine: Machine,
    flow: str,
    *,
    folder: Path | None = None,
    tokens_per_second: float | None = None,
    completion_tokens: int | None = None,
) -> Plan:
    """The plan of a flow.

    Args:
        size: of the model, or why it is not known: then nothing is.
        folder: the workspace, where it is on this machine: what it holds already is not needed again.
        tokens_per_second: generated tokens a second of training as a whole, instead of an estimate.
        completion_tokens: expected mean length of a completion; None: the longest.

    Raises:
        ConfigError: there is no such flow.
    """
    from npo_core.planning.changes import changes

    about = {"device": machine.device, "gpus": machine.gpus, "name": machine.name, "memory": machine.memory}
    model = {"path": getattr(config.model, "path", "built-in")}
    if isinstance(size, str):
        return Plan(config.name, flow, model, about, [], [], [], [size])
    setting = Setting(config, size, machine.device)
    length = min(completion_tokens or setting.completion_tokens, setting.completion_tokens)
    plan = Plan(
        name=config.name,
        flow=flow,
        model=model | {**asdict(size), "dtype": "bfloat16" if setting.weight_bytes == 2 else "float32"},
        machine=about,
        needs=find_needs(setting, machine, flow, folder),
        stages=find_stages(setting, machine, flow, length, tokens_per_second),
        assumptions=assumptions(setting, machine, length, tokens_per_second),
        unknown=unknown(setting, machine),
    )
    plan.changes.extend(changes(setting, machine, plan, folder))
    return plan


def find_needs(setting: Setting, machine: Machine, flow: str, folder: Path | None) -> list[Need]:
    """Memory of each stage, of the machine where a GPU trains, and disk."""
    stages = stages_of(setting, flow)
    names = {stage.stage for stage in stages}
    least = {memory.stage: memory.peak for memory in stage_memory(replace(setting, longest_prompts=False), names)}
    needs = []
    for memory in stage_memory(setting, names):
        limit = machine.memory
        if setting.device == "cpu" and memory.stage == "train" and limit is not None:
            limit /= setting.processes
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


def verdict(need: float, limit: float | None, least: float) -> Verdict:
    """`least` is what is needed in any case: of memory, with empty prompts and an estimate that is too high."""
    if limit is None:
        return "unknown"
    if need <= limit:
        return "fits"
    return "close" if least <= limit else "too much"


def find_stages(setting: Setting, machine: Machine, flow: str, length: float, rate: float | None) -> list[Stage]:
    """Tokens and seconds of each stage."""
    found = []
    for work in stages_of(setting, flow):
        tokens = work.tokens(length)
        estimated = seconds(work, setting, machine.speed, length) if rate is None else tokens and tokens / rate
        found.append(Stage(work.label, work.stage, work.updates, work.completions, tokens, estimated))
    return found


def assumptions(setting: Setting, machine: Machine, length: float, rate: float | None) -> list[str]:
    """What the figures rest on, in sentences."""
    longest = f"Completions of {length:g} tokens" + (
        ", the longest that training.max_completion_tokens allows" if length == setting.completion_tokens else ""
    )
    said = [f"{longest}; memory and disk are those of the longest, {setting.tokens} tokens with the prompt."]
    speed = machine.speed
    if rate is not None:
        said.append(f"Time: {rate:g} generated tokens a second, whatever the stage.")
    elif speed is not None:
        peak = (speed.bf16 if setting.product_bytes == 2 else speed.fp32) / 1e12
        said.append(
            f"Time: {speed.share:.0%} of {peak:.3g} Tflop/s, {speed.bandwidth / 1e9:,.0f} GB/s of memory, and "
            f"{1000 * speed.layer:g} ms a block and generated token; verification is not counted."
        )
    if setting.processes > 1:
        spread = "split among" if setting.sharded > 1 else "copied to each of"
        said.append(
            f"Weights, gradients and optimizer are {spread} {setting.processes} processes; other stages have one."
        )
    said.append("Guidance is counted as if every prompt were asked as often as allowed.")
    return said


def unknown(setting: Setting, machine: Machine) -> list[str]:
    """What is not known, in sentences; nothing is refused for it."""
    said = []
    if not setting.prompts_bounded:
        said.append("problems.max_prompt_tokens = none: the length of prompts is unknown and left out; set a limit.")
    if setting.images:
        said.append(
            "Images: how much of a prompt they are is unknown; their pixels and the vision tower's work are left out."
        )
    if setting.held_out is None or setting.benchmarks is None:
        said.append("Held-out problems: their number is known once the data is read.")
    what = {"memory": machine.memory, "disk": machine.disk, "speed": machine.speed}
    words = {
        "memory": "Memory is unknown: no nvidia-smi is here to tell it; give GiB (--gpu-memory) or the GPU (--gpu).",
        "disk": "Free disk is unknown: the workspace is not on this machine.",
        "speed": "Time is unknown for this device; give generated tokens a second (--tokens-per-second).",
    }
    return said + [words[name] for name, value in what.items() if value is None]


def in_gib(size: float) -> str:
    """Bytes in GiB, or in MiB below a tenth of one."""
    return f"{size / GIB:,.1f} GiB" if size >= GIB / 10 else f"{ceil(size / 2**20):,} MiB"


def largest(needs: Sequence[Need]) -> Need | None:
    """The need that is furthest beyond its limit; None where all fit."""
    beyond = [need for need in needs if need.verdict in ("close", "too much")]
    return max(beyond, key=lambda need: need.total / need.limit, default=None)
