"""Tasks of Reasoning Gym (arXiv 2505.24760): levels, problems and scores, as the library has them."""

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import lru_cache
from itertools import cycle, islice
from typing import Any

from npo_core.config import ReasoningGymProblems
from npo_core.errors import ConfigError
from npo_core.problems.values import normal

REPEATS = 200  # problems drawn in a row that were there before, after which a task has no others
MISSING = "problems.kind = reasoning-gym needs the package reasoning-gym: pip install 'npo-core[reasoning-gym]'."
Kind = tuple[str, int | None, dict[str, Any]]  # a task, its level, and settings in place of those of the level


def check(settings: ReasoningGymProblems) -> None:
    """Draw a problem of every task at every level. Raises ConfigError where one cannot be drawn."""
    for task, level, config in kinds(settings):
        require_answer(task, make(task, level, config, settings.seed)[0])


def require_answer(name: str, entry: dict[str, Any]) -> None:
    """Raises ConfigError where a problem has no reference: its task knows right answers only when it sees them."""
    if not isinstance(entry["answer"], str) or not entry["answer"].strip():
        raise ConfigError(f"problems.tasks: {name} has no reference answers in the library: name another task.")


def kinds(settings: ReasoningGymProblems) -> list[Kind]:
    """What is drawn from, in the order in which they take turns."""
    return [(task.name, level, task.config) for task in settings.tasks for level in [*task.levels] or (None,)]


def make(name: str, level: int | None, config: dict[str, Any], seed: int = 0, size: int = 1) -> Any:
    """The library's data set of a task. Raises ConfigError."""
    try:
        from reasoning_gym import factory
    except ImportError:
        raise ConfigError(MISSING) from None
    if name not in factory.DATASETS:
        raise ConfigError(f"problems.tasks: {name} is no task of Reasoning Gym: name one of {', '.join(close(name))}.")
    made, known = factory.DATASETS[name]
    if unknown := set(config) - {field.name for field in fields(known)}:
        there = ", ".join(sorted({field.name for field in fields(known)} - {"seed", "size"}))
        raise ConfigError(f"problems.tasks: {name} has no setting {', '.join(sorted(unknown))}: use one of {there}.")
    base = {"seed": seed, "size": size}
    try:
        return made(config=replace(known(**base) if level is None else at_level(name, level, base), **config))
    except ConfigError:
        raise
    except Exception as error:  # the library asserts, and raises whatever it likes
        at = "" if level is None else f" at level {level}"
        said = f"{type(error).__name__}: {error}"
        raise ConfigError(f"problems.tasks: {name}{at} cannot be made ({said}): change its config.") from None


def close(name: str) -> list[str]:
    """The tasks whose names are like one that is not there, or all."""
    from difflib import get_close_matches

    from reasoning_gym.factory import DATASETS

    return get_close_matches(name, DATASETS, 5, 0.5) or sorted(DATASETS)


def at_level(name: str, level: int, base: dict[str, Any]) -> Any:
    """The settings of a level: each attribute of the curriculum is at that level, or at its own highest."""
    from reasoning_gym import factory

    if not factory.has_curriculum(name):
        raise ConfigError(f"problems.tasks: {name} has no levels: leave levels out, or use its config.")
    curriculum = factory.create_curriculum(name)
    most = max(len(attribute.levels) for attribute in curriculum.attributes.values()) - 1
    if not 0 <= level <= most:
        raise ConfigError(f"problems.tasks: levels of {name} has {level}: use levels from 0 to {most}.")
    for key, attribute in curriculum.attributes.items():
        curriculum.set_attr_level(key, min(level, len(attribute.levels) - 1))
    return curriculum.generate_configuration(base)


def rows(settings: ReasoningGymProblems) -> dict[str, list[dict[str, Any]]]:
    """The held-out problems and then those of training, all different; tasks and levels take turns."""
    many, seen = kinds(settings), set[str]()
    count = settings.train + settings.held_out
    turns = cycle([different(kind, settings, seen, count, len(many) > len(settings.tasks)) for kind in many])
    drawn = [next(turn) for turn in islice(turns, count)]
    return {"train": drawn[settings.held_out :], "held_out": drawn[: settings.held_out]}


def different(
    kind: Kind, settings: ReasoningGymProblems, seen: set[str], count: int, levels: bool
) -> Iterator[dict[str, Any]]:
    """Problems of a task at a level that are not in `seen`, which grows. Raises ConfigError where there are no more."""
    name, level, config = kind
    task = {"name": name, "level": level, "config": config}
    shown = level or 0 if len(settings.tasks) == 1 else f"{name} {level}" if levels else name
    repeats = 0
    for entry in make(name, level, config, settings.seed, REPEATS * count):
        require_answer(name, entry)
        if (question := normal(entry["question"])) in seen:
            repeats += 1
            if repeats == REPEATS:
                break
            continue
        seen.add(question)
        repeats = 0
        asked = [{"role": "user", "content": entry["question"]}]
        kept = {"messages": asked, "answer": entry["answer"], "difficulty": shown, "library": "reasoning-gym"}
        yield kept | {"task": task | {"metadata": entry["metadata"]}}
    raise ConfigError(
        f"problems.tasks: {name} draws no more different problems for problems.train = {settings.train} and held_out = "
        f"{settings.held_out}: ask for fewer, or for more levels or tasks."
    )


@lru_cache(maxsize=256)
def scorer(name: str, level: int | None, config: str) -> Any:
    """The data set that scores answers; `config` as JSON."""
    return make(name, level, json.loads(config))


def score(task: dict[str, Any], answer: str, reference: str) -> float:
    """What the library says of an answer, from 0 to 1."""
    entry = {"answer": reference, "metadata": task["metadata"]}
    given = scorer(task["name"], task["level"], json.dumps(task["config"], sort_keys=True))
    return float(given.score_answer(answer, entry))
