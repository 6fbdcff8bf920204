"""The form of a run in the Prefect UI: a `RunConfig` in the order in which people fill it in.

First what decides most (`leads`, by dotted name), then the groups that the flow uses, then all others under `advanced`.
A form's values are those of a configuration file, with leads as dotted names and the others in `advanced`; a flow takes
either.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from npo_core.config import RunConfig, explain, override
from npo_core.config.closed import in_order
from npo_core.config.load import left_to_method, take
from npo_core.config.methods import default_method, read_method
from npo_core.errors import ConfigError
from npo_core.names import AUTO_NPO, EARLY_BOOTSTRAP, GRPO, PLATEAU

ADVANCED = "advanced"
Schema = dict[str, Any]


class Form:
    """What annotates the `config` of a flow: `Annotated[RunConfig, Form(...)]`.

    Args:
        leads: dotted fields that come first. groups: the groups of fields that the flow uses. recipe: what the flow
            runs, where it has a method of its own.
    """

    def __init__(self, leads: list[str], groups: list[str], recipe: str | None = None):
        self.leads, self.groups, self.recipe = leads, groups, recipe

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        whole = Dotted(handler).group(handler(schema), "")
        fields = whole["properties"]
        shown = {dotted: lift(fields, dotted.split(".")) for dotted in self.leads}
        shown |= {name: fields.pop(name) for name in self.groups}
        rest = {"title": ADVANCED, "type": "object", "description": "What is seldom changed.", "properties": fields}
        whole.pop("additionalProperties", None)
        whole["properties"] = shown | {ADVANCED: rest}
        for group in (whole, rest):
            in_order(group)
        return {**whole, "title": "config", "description": "Everything that decides the run."}

    def check(self, values: Any, validate: Callable[[Any], RunConfig]) -> RunConfig | ConfigError:
        """A configuration from a form's values or a file's; else what is wrong, with one sentence for each field.

        The error is returned for the flow to end with: raised here it would reach the log as a traceback of Prefect's.
        """
        try:
            given = plain(values)
            if isinstance(given, dict) and (method := default_method(self.recipe, given)) is not None:
                given = given | {"method": method}
            return validate(given)
        except ConfigError as error:
            return error
        except ValidationError as error:
            return ConfigError(explain(error, "The form"))

    def fill(self, config: RunConfig) -> dict[str, Any]:
        """The values of the form for a configuration; fields of its method are left to the method."""
        values = beside_method(config)
        leads = {dotted: take(values, dotted.split(".")) for dotted in self.leads}
        groups = {name: values.pop(name) for name in self.groups}
        return {**leads, **groups, ADVANCED: values}


FORMS = {
    GRPO: Form(["name", "seed", "training.steps", "method"], ["problems", "model", "training", "evaluation"]),
    EARLY_BOOTSTRAP: Form(
        ["name", "seed", "training.steps", "bootstrap.scout_steps", "method"],
        ["problems", "model", "training", "bootstrap", "guidance", "injection", "evaluation"],
    ),
    AUTO_NPO: Form(
        ["name", "seed", "training.steps", "method", "auto.approval", "auto.budget_updates", "auto.budget_tokens"],
        ["problems", "model", "training", "auto", "bootstrap", "guidance", "injection", "evaluation"],
        AUTO_NPO,
    ),
    PLATEAU: Form(
        ["name", "seed", "training.steps"], ["problems", "model", "training", "guidance", "injection", "evaluation"]
    ),
}


def plain(values: Any) -> Any:
    """A form's values as a file has them; a file's, and a configuration, as they are."""
    if not isinstance(values, dict):
        return values
    leads = {name: value for name, value in values.items() if "." in name}
    groups = {name: value for name, value in values.items() if name not in leads and name != ADVANCED}
    return override(deepcopy(groups | (values.get(ADVANCED) or {})), leads)


def beside_method(config: RunConfig) -> dict[str, Any]:
    """All fields, those that the method sets at their defaults: whoever names another method gets that one's alone."""
    values = config.model_dump(mode="json")
    if config.method is None:
        return values
    bare = left_to_method(config, values, read_method(config.method)[1], [])
    try:
        return RunConfig.model_validate(bare | {"method": None}).model_dump(mode="json") | {"method": config.method}
    except ValidationError:  # what wins over the method means nothing without it
        return values


def lift(fields: Schema, path: list[str]) -> Schema:
    """Remove a field from nested groups; its schema. A group without it still takes it, as files have it there."""
    *parents, leaf = path
    for name in parents:
        fields[name].pop("additionalProperties", None)
        fields = fields[name]["properties"]
    return fields.pop(leaf)


class Titled:
    """What annotates another group of a flow's parameters, so that its fields have dotted titles as well."""

    def __init__(self, name: str):
        self.name = name

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        return Dotted(handler).group(handler(schema), self.name)


class Dotted:
    """Writes groups of fields out, so that each field's title is the dotted name that files and `--set` have."""

    def __init__(self, handler: GetJsonSchemaHandler):
        self.handler = handler

    def group(self, schema: Schema, path: str, within: tuple[str, ...] = ()) -> Schema:
        """A group, or a choice between groups, with everything below it; what contains itself is left as it is."""
        name = schema.get("$ref", "")
        if name in within:
            return {**schema, **({"title": path} if path else {})}
        within = (*within, name) if name else within
        found = deepcopy(self.handler.resolve_ref_schema(schema)) if name else deepcopy(schema)
        found = {**found, **{key: value for key, value in schema.items() if key not in ("$ref", "default")}}
        if path:
            found["title"] = path
        for number, choice in enumerate(found.get("anyOf", [])):
            if "$ref" in choice:
                found["anyOf"][number] = self.choice(choice, path, within)
        if "discriminator" in found:
            del found["discriminator"]  # names groups that are written out here
        for field, of in found.get("properties", {}).items():
            found["properties"][field] = self.group(of, f"{path}.{field}" if path else field, within)
        return found

    def choice(self, schema: Schema, path: str, within: tuple[str, ...]) -> Schema:
        """One of several groups, which keeps the title of its tab."""
        title = self.handler.resolve_ref_schema(schema).get("title")
        return self.group(schema, path, within) | ({"title": title} if title else {})
