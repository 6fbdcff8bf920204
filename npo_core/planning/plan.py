"""A plan: what a run needs beside what there is, what does not fit, and what to change."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from npo_core.config import RunConfig
from npo_core.errors import ConfigError
from npo_core.planning.changes import changes
from npo_core.planning.machine import Machine, look
from npo_core.planning.needs import Need, find_needs
from npo_core.planning.seconds import seconds
from npo_core.planning.setting import Setting
from npo_core.planning.size import ModelSize, model_size
from npo_core.recipes.counting import count
from npo_core.recipes.work import benchmarks, held_out
from npo_core.stages.forked import environment
from npo_core.timeline import Store


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

    def require(self) -> None:
        """Raises ConfigError where the run cannot fit; says what to change."""
        if self.refused:
            raise ConfigError(
                "\n  ".join(["The run does not fit on this machine (`npo plan` shows the parts):", *self.changes])
            )

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        needs = [{**asdict(need), "total": need.total} for need in self.needs]
        return {**asdict(self), "needs": needs, "refused": self.refused}


def plan_run(config: RunConfig, workspace: str, recipe: str) -> Plan:
    """The plan of a run on this machine, without measuring its speed; the workspace is not touched."""
    store = Store(workspace)
    folder = store.local("") if store.is_local else None
    size = model_size(config, environment(config.execution))
    return make_plan(config, size, look(config, folder), recipe, folder=folder)


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
    about = {"device": machine.device, "gpus": machine.gpus, "name": machine.name, "memory": machine.memory}
    model = {"path": getattr(config.model, "path", "built-in")}
    if isinstance(size, str):
        return Plan(config.name, flow, model, about, [], [], [], [size])
    setting = Setting(config, size, machine.device, gpus=machine.gpus)
    length = min(completion_tokens or setting.completion_tokens, setting.completion_tokens)
    needs = find_needs(setting, machine, flow, folder)
    return Plan(
        name=config.name,
        flow=flow,
        model=model | {**asdict(size), "dtype": "bfloat16" if setting.weight_bytes == 2 else "float32"},
        machine=about,
        needs=needs,
        stages=find_stages(setting, machine, flow, length, tokens_per_second, folder),
        assumptions=assumptions(setting, machine, length, tokens_per_second),
        unknown=unknown(setting, machine),
        changes=changes(needs, setting, machine, flow, folder),
    )


def find_stages(
    setting: Setting, machine: Machine, flow: str, length: float, rate: float | None, folder: Path | None
) -> list[Stage]:
    """Tokens and seconds of each stage."""
    found = []
    for work in count(setting.config, flow, folder):
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
        if setting.processes > 1 and speed.link < float("inf"):
            said.append(
                f"Weights and gradients go between GPUs at {speed.link / 1e9:,.0f} GB/s, beside what is computed"
                + (", also from machine to machine." if setting.config.execution.nodes > 1 else ".")
            )
    if setting.processes > 1:
        spread = "split among" if setting.sharded > 1 else "copied to each of"
        said.append(f"Weights, gradients and optimizer are {spread} {setting.processes} processes.")
    if setting.generating > 1:
        said.append(f"Guidance, probes and evaluation are dealt out among {setting.generating} processes.")
    if setting.images and setting.size.tower is not None:
        said.append("Prompts are counted as if they were all image.")
    said.append("Guidance is counted as if every prompt were asked as often as allowed.")
    return said


def unknown(setting: Setting, machine: Machine) -> list[str]:
    """What is not known, in sentences; nothing is refused for it."""
    said = []
    if not setting.prompts_bounded:
        said.append("problems.max_prompt_tokens = none: the length of prompts is unknown and left out; set a limit.")
    if setting.images and setting.size.tower is None:
        said.append("Images: this model's vision tower is not known here; pixels and the tower's work are left out.")
    problems = setting.config.problems
    if held_out(problems) is None or benchmarks(problems) is None:
        said.append("Held-out problems: their number is known once the data is read.")
    what = {"memory": machine.memory, "disk": machine.disk, "speed": machine.speed}
    words = {
        "memory": "Memory is unknown: no nvidia-smi is here to tell it; give GiB (--gpu-memory) or the GPU (--gpu).",
        "disk": "Free disk is unknown: the workspace is not on this machine.",
        "speed": "Time is unknown for this device; give generated tokens a second (--tokens-per-second).",
    }
    return said + [words[name] for name, value in what.items() if value is None]
