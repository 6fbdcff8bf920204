"""From YAML or plain values to settings, with one sentence for each that is wrong."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from npo_core.config.control import Plateau
from npo_core.config.methods import default_method, leaves, read_method, same
from npo_core.config.run import RunConfig
from npo_core.errors import ConfigError

CHOSEN_BY_KIND = {"problems", "model", "verifier"}  # pydantic names the kind after these, which nobody writes


def explain(error: ValidationError, source: str) -> str:
    """One sentence a problem: field, value, what would be right."""
    lines = []
    for problem in error.errors():
        field = ".".join(written(problem["loc"])) or "the configuration"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{field}: there is no such field; `npo config` lists them")
        elif problem["type"] == "value_error":
            lines.append(problem["msg"].removeprefix("Value error, "))
        elif problem["type"] == "missing":
            lines.append(f"{field}: a value is needed; `npo config` explains the field")
        else:
            lines.append(f"{field} = {problem['input']!r}: {problem['msg']}")
    return f"{source} is not a valid configuration:\n  " + "\n  ".join(lines)


def written(location: tuple[str | int, ...]) -> Iterator[str]:
    """The parts of a field's name as they are written in a file."""
    before = None
    for part in location:
        if before not in CHOSEN_BY_KIND:
            yield str(part)
            before = part
        else:
            before = None


def parse_config(values: object, source: str = "The given configuration") -> RunConfig:
    """Validate plain values.

    Raises:
        ConfigError: one line for each wrong field.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, source)) from None


def parse_plateau(values: dict[str, object]) -> Plateau:
    """Validate the settings of a plateau breakthrough, by field of `Plateau`.

    Raises:
        ConfigError: one line for each wrong field.
    """
    try:
        return TypeAdapter(dict[str, Plateau]).validate_python({"plateau": values})["plateau"]
    except ValidationError as error:
        raise ConfigError(explain(error, "The given plateau")) from None


class WrittenTwice(yaml.YAMLError):
    """A field is written twice."""


class OnceEach(yaml.SafeLoader):
    """YAML in which a field that is written twice is an error: the second would silently replace the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """A mapping. Raises WrittenTwice where a key is there twice."""
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise WrittenTwice(f"{key.value} is written twice, in lines {lines[key.value]} and {line}")
            lines[key.value] = line
        return super().construct_mapping(node, deep)


def load_config(path: str | Path, overrides: dict | None = None, recipe: str | None = None) -> RunConfig:
    """Read a YAML file; `overrides` maps dotted fields to values that win over it.

    Args:
        recipe: what will run; it may have a method of its own where none is named (`default_method`).

    Raises:
        ConfigError: the file is missing, not YAML, or no valid configuration; or a value in it gave way to the method.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), OnceEach) or {}
    except OSError as error:
        raise ConfigError(
            f"The configuration {path} cannot be read ({error.strerror}): name a YAML file, for example "
            "deployments/configs/demo.yaml."
        ) from None
    except WrittenTwice as error:
        raise ConfigError(f"The configuration {path}: {error}; the first would be ignored, keep one of them.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration {path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"The configuration {path} holds {type(values).__name__}, not fields with values.")
    another = (overrides or {}).get("method")
    if another and values.get("method") not in (None, another):
        values = without_method(values, str(path))
    given = override(values, overrides or {})
    if (method := default_method(recipe, given)) is not None:
        given["method"] = method
    config = parse_config(given, str(path))
    if config.method is not None:
        require_kept(given, read_method(config.method)[1], config)
    return config


def require_kept(given: dict[str, Any], method: dict[str, Any], config: RunConfig) -> None:
    """Refuse a written value that the method replaced: of a form, which gives all fields, a default says nothing.

    Raises:
        ConfigError: names field, value and what to do.
    """
    now = dict(leaves(config.model_dump(mode="json")))
    written = dict(leaves(given))
    for name, wanted in leaves(method):
        if name in written and not same(written[name], wanted) and same(now.get(name), wanted):
            raise ConfigError(
                f"{name} = {written[name]!r} is the default, which gives way to {wanted!r} of the method "
                f"{config.method}: copy the method's file, change it there, and name the copy as the method."
            )


def override(values: dict, changes: dict[str, object]) -> dict:
    """Set dotted fields in nested plain values, in place; the values.

    Raises:
        ConfigError: what should be a group of fields is a value.
    """
    for dotted, value in changes.items():
        *parents, leaf = dotted.split(".")
        node = values
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(
                    f"{dotted}: {parent} is a value ({node!r}), not a group of fields; `npo config` lists them."
                )
        node[leaf] = value
    return values


def without_method(values: dict[str, Any], source: str) -> dict[str, Any]:
    """A file's values without its method and what they have from it, as the configuration of a run has."""
    config = parse_config(values, source)
    return left_to_method(config, values, read_method(values["method"])[1], []) | {"method": None}


def left_to_method(config: RunConfig, values: dict[str, Any], method: dict[str, Any], path: list[str]) -> Any:
    """Values without those that a configuration has from its method; others win over the method's, and stay."""
    for name, value in method.items():
        left = deepcopy(values)
        take(left, [*path, name])
        if RunConfig.model_validate(left) == config:
            values = left
        elif isinstance(value, dict):
            values = left_to_method(config, values, value, [*path, name])
    return values


def take(values: dict[str, Any], path: list[str]) -> Any:
    """Remove a field from nested values, if it is there; what it was."""
    for name in path[:-1]:
        values = values.get(name) or {}
    return values.pop(path[-1], None)
