"""Single-turn tasksets of Prime Intellect's `verifiers` (its present API, `verifiers.v1`): problems and rewards."""

import asyncio
import importlib.util
import inspect
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from npo_core.allowed import require_module
from npo_core.config import VerifiersProblems
from npo_core.errors import ConfigError

MISSING = "problems.kind = verifiers needs the package verifiers: pip install 'npo-core[verifiers]'."
NO_ANSWER = "(none: the taskset scores)"  # the reference of a task whose data has no `answer`


def check(settings: VerifiersProblems) -> None:
    """Look at the first task of each part. Raises ConfigError where there is none that one answer ends."""
    for config in [settings.config, settings.held_out_config]:
        if config is not None:
            rows_of(settings.taskset, config, 1)


def opened(id_: str, config: dict[str, Any]) -> Any:
    """A taskset. Raises ConfigError where it is not there, not allowed here, or refuses its settings."""
    name = id_.rsplit("/", 1)[-1].split("@", 1)[0].replace("-", "_").lower()  # as the library finds it
    try:
        shipped = importlib.util.find_spec(f"verifiers.v1.tasksets.{name}")
    except ImportError:
        raise ConfigError(MISSING) from None
    require_module(f"verifiers.v1.tasksets.{name}" if shipped else name, id_, "problems.taskset =")
    for path in imported(config):
        require_module(path.partition(":")[0], path, "problems.config of the taskset names")
    from verifiers.v1.configs.taskset import TasksetConfig
    from verifiers.v1.utils.generic import concrete_type
    from verifiers.v1.utils.loaders import taskset_class

    try:
        made = taskset_class(id_)
        return made((concrete_type(made, TasksetConfig) or TasksetConfig).model_validate({**config, "id": id_}))
    except Exception as error:  # whatever somebody's module raises
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"problems.taskset = {id_} cannot be opened ({said}): install its package, which "
            "exports one Taskset of verifiers.v1, and check problems.config."
        ) from None


def imported(config: Any) -> Iterator[str]:
    """What settings of a taskset have the library import: functions (`fn`) and plugins (`id`), however deep."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key in ("fn", "id") and isinstance(value, str):
                yield value
            yield from imported(value)
    elif isinstance(config, list):
        for value in config:
            yield from imported(value)


def rows(settings: VerifiersProblems) -> dict[str, list[dict[str, Any]]]:
    """The first tasks, held-out ones before those of training, or each part by settings of its own."""
    own, held_out = settings.held_out_config, settings.held_out
    if own is not None:
        parts = {"train": rows_of(settings.taskset, settings.config, settings.train)}
        return parts | {"held_out": rows_of(settings.taskset, own, held_out)}
    drawn = rows_of(settings.taskset, settings.config, settings.train + held_out)
    if len(drawn) <= held_out:
        raise ConfigError(
            f"problems.held_out = {held_out} leaves no training problem of the {len(drawn)} tasks of "
            f"{settings.taskset}: hold out fewer, or set held_out_config."
        )
    return {"train": drawn[held_out:], "held_out": drawn[:held_out]}


def rows_of(id_: str, config: dict[str, Any], most: int) -> list[dict[str, Any]]:
    """The first `most` tasks of a taskset as rows. Raises ConfigError."""
    taskset = opened(id_, config)
    try:
        tasks = list(taskset.take(most))
    except Exception as error:
        raise ConfigError(f"problems.taskset = {id_} gives no tasks ({type(error).__name__}: {error}).") from None
    for task in tasks[:1]:
        if lacking := needs(task, taskset):
            raise ConfigError(
                f"problems.taskset = {id_} is not single-turn: its tasks need {lacking}; name one whose tasks are a "
                "prompt, one answer and rewards that read it."
            )
    return [row(id_, config, task.data) for task in tasks]


def needs(task: Any, taskset: Any) -> str | None:
    """What a task needs beside one answer, in words; None: nothing."""
    if task.NEEDS_CONTAINER:
        return "a container"
    if task.toolsets(task.config) or taskset.toolsets(taskset.config):
        return "tools"
    if task.data.prompt is None:
        return "a user who begins"
    required = [fn.__name__ for fn in task.hooks("reward") if bare(fn, "runtime")]
    return f"a runtime (reward {', '.join(required)})" if required else None


def bare(function: Any, name: str) -> bool:
    """Whether a function has a parameter of a name without a default."""
    found = inspect.signature(function).parameters.get(name)
    return found is not None and found.default is inspect.Parameter.empty


def row(id_: str, config: dict[str, Any], data: Any) -> dict[str, Any]:
    """A task as a row."""
    kept = data.model_dump(mode="json", exclude_defaults=True)
    asked = kept["prompt"]
    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else [said(m) for m in asked]
    if data.system_prompt:
        messages.insert(0, {"role": "system", "content": data.system_prompt})
    answer = kept.get("answer")
    answer = str(answer) if isinstance(answer, str | int | float) and str(answer).strip() else NO_ANSWER
    task = {"id": id_, "config": config, "data": kept}
    return {"messages": messages, "answer": answer, "difficulty": 0, "library": "verifiers", "task": task}


def said(message: dict[str, Any]) -> dict[str, Any]:
    """A message with its role and content alone."""
    return {"role": message["role"], "content": message["content"]}


@lru_cache(maxsize=64)
def taskset_of(id_: str, config: str) -> Any:
    """A taskset, kept for the next answer; `config` as JSON."""
    return opened(id_, json.loads(config))


def score(kept: dict[str, Any], answer: str) -> float:
    """The sum of a task's rewards for an answer. Raises ConfigError where it is no accuracy."""
    from verifiers import v1
    from verifiers.v1.graph import MessageNode
    from verifiers.v1.trace import AgentInfo, Trace, TraceTask

    taskset = taskset_of(kept["id"], json.dumps(kept["config"], sort_keys=True))
    kind = taskset.task_type()
    data = kind.data_type().model_validate(kept["data"])
    asked = MessageNode(message=v1.UserMessage(content=data.prompt_text))
    given = MessageNode(parent=0, message=v1.AssistantMessage(content=answer), sampled=True)
    about = TraceTask(type=kind.__name__, data=data)
    trace = Trace(task=about, agent=AgentInfo(config=v1.AgentConfig()), nodes=[asked, given])
    asyncio.run(kind(data, taskset.config.task).score(trace))
    if not 0 <= trace.reward <= 1:
        raise ConfigError(
            f"The taskset {kept['id']} gave a reward of {trace.reward:g}, but it is the accuracy, from 0 to 1: lower "
            "the weights of its rewards in problems.config.task.rewards."
        )
    return trace.reward
