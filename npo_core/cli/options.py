"""What the commands share: their options, `--set`, and how they print."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from npo_core.errors import ConfigError
from npo_core.shipped import presets

if TYPE_CHECKING:
    from npo_core.config import PretrainedModel, RunConfig

Uri = Annotated[str, typer.Argument(metavar="WORKSPACE", help="Folder or s3://bucket/prefix of a run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for scripts.")]
Baseline = Annotated[str | None, typer.Option(help="Workspace of a run to compare with, usually plain GRPO.")]
ConfigFile = Annotated[
    Path, typer.Option(help="YAML file, or the name of a preset (demo, smoke); `npo config` explains every field.")
]
Local = Annotated[
    bool, typer.Option("--local", help="Run right here, without Prefect; a run that was begun either way goes on.")
]
Method = Annotated[
    str | None,
    typer.Option(help="A mixed-policy method (docs/mix.md), such as pool-rescue-replay-8, or a YAML file of your own."),
]
WorkspaceUri = Annotated[str, typer.Option(help="Folder or s3://bucket/prefix; a started run goes on where it was.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Another replicate: data order and sampling.")]
Shrink = Annotated[
    bool,
    typer.Option("--shrink", help="A trial: a tiny random model of the same classes, few rows and steps, on the CPU."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="A field that wins over the file; may be given again."),
]


def parse_overrides(given: list[str]) -> dict[str, Any]:
    """`a.b=value` as a dotted field and a YAML value."""
    import yaml

    fields = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {text}: write FIELD=VALUE, for example --set training.steps=100.")
        try:
            fields[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {text}: the value is not YAML; put it in quotes.") from None
    return fields


def pretrained(config: "RunConfig") -> "PretrainedModel":
    """The model of a configuration. Raises ConfigError where it is the built-in one, which only a run makes."""
    from npo_core.config import PretrainedModel

    if not isinstance(config.model, PretrainedModel):
        raise ConfigError(
            "model.kind = built-in has no folder: name a model by model.kind = pretrained and model.path."
        )
    return config.model


def load(config: Path, fields: dict[str, Any], recipe: str | None = None) -> "RunConfig":
    """The configuration of a file, or of a preset by its name where there is no such file, for what will run.

    `fields` win over it.
    """
    from npo_core.config import load_config

    known = presets()
    return load_config(known[str(config)] if str(config) in known and not config.exists() else config, fields, recipe)


def emit(data: Any, render: Any, as_json: bool) -> None:
    """Print JSON, or hand the data to a renderer."""
    if as_json:
        typer.echo(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, default=str))
    else:
        render(data, Console())
