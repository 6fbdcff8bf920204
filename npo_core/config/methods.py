"""Methods: files of at most 20 lines that say how a mixed-policy method differs from plain GRPO (docs/mix.md)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from npo_core.errors import ConfigError
from npo_core.names import AUTO_NPO, GRPO, RECIPE_NAMES
from npo_core.shipped import shipped

DEFAULTS = {AUTO_NPO: "auto-npo-prices"}  # of recipes, where no method is named: what docs/results.md found better
OTHERWISE = ("mix.", "auto.choice.rule.", "auto.choice.now.", "auto.probe.behind.")  # written, these say what to do


def methods() -> dict[str, Path]:
    """The files of `deployments/configs/methods` by name."""
    return {path.stem: path for path in sorted((shipped() / "deployments/configs/methods").glob("*.yaml"))}


def read_method(name: str) -> tuple[str, dict[str, Any]]:
    """The recipe of a method, and the fields that it sets; `name` is one of `methods()`, or a YAML file.

    Raises:
        ConfigError: there is no such method, or its file is none.
    """
    path = methods().get(name, Path(name))
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(
            f"method = {name}: there is no such method and no such file; choose one of {', '.join(methods())}."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"method = {name}: {path} is not YAML: {error}") from None
    if not isinstance(values, dict) or values.get("recipe", GRPO) not in RECIPE_NAMES:
        raise ConfigError(
            f"method = {name}: {path} is no method; write `recipe:` with one of {', '.join(RECIPE_NAMES)}, and fields "
            "that differ from plain GRPO."
        )
    return values.pop("recipe", GRPO), values


def default_method(recipe: str | None, given: Mapping[str, Any]) -> str | None:
    """The method of a recipe where none is named; None: it has none, or `given` says otherwise.

    A run's configuration and a form say all that they do not leave out: there none is meant.
    """
    written = [f"{field}." for field, _ in leaves(given)]
    whole = {f"auto.choice.{name}." for name in ("max_delta", "kl_form", "kl_scale", "kl_estimator")} <= {*written}
    if given.get("method") or whole or any(field.startswith(OTHERWISE) for field in written):
        return None
    return DEFAULTS.get(recipe or "")


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no group of fields, by its dotted name."""
    for key, value in values.items():
        name = f"{path}{key}"
        yield from leaves(value, f"{name}.") if isinstance(value, dict) else [(name, value)]


def with_method(given: Mapping[str, Any], method: Mapping[str, Any], group: type[BaseModel]) -> dict[str, Any]:
    """Given fields over those of a method; a given value that is the default gives way, as forms give all fields."""
    merged = dict(given)
    for key, value in method.items():
        default = group.model_fields[key].default if key in group.model_fields else None
        there = given.get(key)
        if isinstance(value, dict) and isinstance(default, BaseModel):
            merged[key] = with_method(as_dict(there), value, type(default))
        elif isinstance(value, dict) and there:
            merged[key] = value | as_dict(there)
        elif there is None or same(there, default):
            merged[key] = value
    return merged


def as_dict(group: Any) -> dict[str, Any]:
    """A group of fields as plain values; of none, an empty one."""
    return group.model_dump() if isinstance(group, BaseModel) else dict(group or {})


def same(given: Any, default: Any) -> bool:
    """Whether a value is the default, whatever kind of list it is in."""
    return list(given) == list(default) if isinstance(given, list | tuple) and default is not None else given == default
