"""What to change where something does not fit: each proposal was tried in the formulas before it is made."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import gcd
from pathlib import Path
from typing import Any

from npo_core.config import PretrainedModel, RunConfig, override, parse_config
from npo_core.errors import ConfigError
from npo_core.planning.machine import Machine
from npo_core.planning.needs import Need, find_needs, in_gib
from npo_core.planning.setting import Setting

Fields = dict[str, Any]  # dotted field -> value


def changes(needs: Sequence[Need], setting: Setting, machine: Machine, flow: str, folder: Path | None) -> list[str]:
    """A sentence for each need that is beyond its limit."""
    return [
        sentence(need, setting, list(working(need, setting, machine, flow, folder)))
        for need in needs
        if need.verdict in ("close", "too much")
    ]


def sentence(need: Need, setting: Setting, found: list[Fields]) -> str:
    """What is too large, by how much, and the changes that help."""
    where = {"disk": "the workspace", "host": "the machine"}.get(need.what, f"stage {need.what}")
    amount = f"{where} needs {in_gib(need.total)}" + (f" in its {need.phase}" if need.phase else "")
    part = max(need.parts, key=need.parts.__getitem__)
    text = f"{amount} and there are {in_gib(need.limit or 0.0)} (most for {part}: {in_gib(need.parts[part])})"
    ways = [written(fields, setting.config) for fields in found]
    if not ways:
        ways = [OTHERWISE.get(need.what, "a device with more memory, or a smaller model")]
    return f"{text[0].upper()}{text[1:]}: " + ", or ".join(ways) + "."


OTHERWISE = {
    "disk": "free space, or a workspace with more (S3, for example)",
    "host": "a machine with more memory",
}


def written(fields: Fields, config: RunConfig) -> str:
    """`training.micro_batch = 4 (now 16)`; several with `and`, without those that are so already."""
    changed = {name: value for name, value in fields.items() if now(config, name) != value}
    return " and ".join(f"{name} = {shown(value)} (now {shown(now(config, name))})" for name, value in changed.items())


def shown(value: object) -> str:
    """A value as it is written in a configuration."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {shown(v)}" for name, v in value.items()) + "}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def now(config: RunConfig, dotted: str) -> object:
    """The value at a dotted name; None where there is none."""
    value: Any = config
    for name in dotted.split("."):
        value = getattr(value, name, None)
    return value


def working(need: Need, setting: Setting, machine: Machine, flow: str, folder: Path | None) -> Iterator[Fields]:
    """Of each way to need less, the first value that fits."""
    for way in ways(need, setting):
        yield from first_that_fits(way, need, setting, machine, flow, folder)


def first_that_fits(
    way: Iterable[Fields], need: Need, setting: Setting, machine: Machine, flow: str, folder: Path | None
) -> list[Fields]:
    """The first change of a way after which the need fits, alone in a list; empty where none does."""
    for fields in way:
        changed = with_fields(setting, fields)
        if changed is None:
            continue
        after = {n.what: n for n in find_needs(changed, machine, flow, folder)}
        if after[need.what].verdict == "fits":
            return [fields]
    return []


def with_fields(setting: Setting, fields: Fields) -> Setting | None:
    """The setting with other values; None where the configuration does not allow them."""
    try:
        config = parse_config(override(setting.config.model_dump(mode="json"), dict(fields)))
    except ConfigError:
        return None
    size, lora = setting.size, fields.get("model.lora")
    if lora:  # close to what peft adds to every matrix of a block
        q, kv = size.heads * size.head, size.key_value_heads * size.head
        ends = 4 * size.hidden + 2 * q + 2 * kv + 3 * (size.hidden + size.intermediate)
        size = replace(size, trainable=size.layers * lora["rank"] * ends)
    return replace(setting, config=config, size=size)


def ways(need: Need, setting: Setting) -> list[list[Fields]]:
    """Ways to need less, each from the least change to the largest; ways that cost least come first."""
    if need.what == "train":
        return training_ways(need, setting)
    config, wide = setting.config, {"model.dtype": "bfloat16"} if setting.weight_bytes == 4 else {}
    probe, guidance = config.auto.probe, config.guidance
    fewer = {
        "guide": halves("guidance.batch", guidance.batch or guidance.chunk_prompts * guidance.samples_per_round),
        "probe": halves("auto.probe.batch", probe.batch or probe.prompts * probe.samples),
        "evaluate": halves("evaluation.batch", config.evaluation.batch),
        "disk": sparser(config),
    }.get(need.what, [])
    return [fewer, lighter(setting)] if need.what == "disk" else [fewer, [wide] if wide else []]


def training_ways(need: Need, setting: Setting) -> list[list[Fields]]:
    """The ways to lower what training needs, those that change least first."""
    training = setting.config.training
    smaller = halves("training.micro_batch", setting.micro_batch)
    again = {} if training.gradient_checkpointing else {"training.gradient_checkpointing": True}
    both = [{**again, **fields} for fields in smaller] if again else []
    light = [{**fields, **again, **micro} for fields in lighter(setting) for micro in ({}, *smaller)]
    spread = sharding(setting)
    if need.phase in ("prompts", "generation", "images"):
        rollouts = [{"engine.rollouts": True}] if setting.device == "cuda" else []
        return [halves("training.generation_batch", setting.rows), rollouts, light[:1], spread]
    simple = [smaller, [again] if again else []]
    return [*simple, both, light, spread]


def halves(name: str, value: int) -> list[Fields]:
    """Ever smaller values of a field, down to 1."""
    found = []
    while value > 1:
        value //= 2
        found.append({name: value})
    return found


def lighter(setting: Setting) -> list[Fields]:
    """LoRA, where a pretrained model is trained whole."""
    whole = isinstance(setting.config.model, PretrainedModel) and not setting.size.adapters
    return [{"model.lora": {"rank": 16}}] if whole else []


def sharding(setting: Setting) -> list[Fields]:
    """More GPUs, among which weights, gradients and optimizer are split."""
    if setting.device == "cpu" or setting.size.adapters:
        return []
    return [
        {"execution.sharding": "fsdp2", "execution.processes": number}
        for number in (2, 4, 8, 16, 32)
        if number >= setting.processes
    ]


def sparser(config: RunConfig) -> list[Fields]:
    """Fewer snapshots: steps between them that all other settings are multiples of."""
    training = config.training
    most = gcd(training.steps, config.bootstrap.scout_steps, config.evaluation.every, *config.bootstrap.ladder)
    return [
        {"training.snapshot_every": every}
        for every in range(training.snapshot_every + 1, most + 1)
        if most % every == 0
    ]
