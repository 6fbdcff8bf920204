"""`npo plan`."""

from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from npo_core.cli.options import AsJson, Method, Overrides, emit, load, parse_overrides
from npo_core.cli.output import Data, render

if TYPE_CHECKING:
    from npo_core.config import RunConfig
    from npo_core.timeline import Store

REFUSED = 64  # as a run's exit code would be


Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; `npo config` explains every field.")]
Flow = Annotated[
    str | None,
    typer.Option(
        help="grpo, early-bootstrap, plateau-breakthrough, auto-npo, fork; default: the method's, or early-bootstrap."
    ),
]
Gpus = Annotated[int | None, typer.Option(min=1, help="GPUs that train; sets execution.processes.")]
Gpu = Annotated[str | None, typer.Option(help="H200, H100, A100 or L4: its memory and speed.")]
GpuMemory = Annotated[float | None, typer.Option(min=0.1, help="GiB of each GPU.")]
Run = Annotated[str | None, typer.Option(help="Where the run lives or will live: its free disk is the limit.")]
Rate = Annotated[
    float | None, typer.Option(min=0.001, help="Generated tokens a second over whole stages, instead of an estimate.")
]
Length = Annotated[
    int | None,
    typer.Option(min=1, help="Expected mean length of completions; default: the workspace's, or the longest."),
]


def plan(
    config: Config,
    flow: Flow = None,
    gpus: Gpus = None,
    gpu: Gpu = None,
    gpu_memory: GpuMemory = None,
    workspace: Run = None,
    tokens_per_second: Rate = None,
    completion_tokens: Length = None,
    overrides: Overrides = None,
    method: Method = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run will need before it starts: memory by part, disk, tokens, time; what does not fit, what to change.

    Needs no GPU and downloads no weights. Exits with 64 where a run would be refused. docs/planning.md
    tells how far off the estimates are.

    Example: [cyan]npo plan deployments/configs/qwen3-0.6b-gsm8k-1gpu.yaml --gpu L4[/]
    """
    fields = parse_overrides(overrides or []) | ({} if gpus is None else {"execution.processes": gpus})
    fields |= {} if method is None else {"method": method}
    chosen = load(config, fields, flow)
    found = plan_data(
        chosen,
        flow or chosen.recipe or "early-bootstrap",
        workspace,
        machine={"gpu": gpu, "gpu_memory": gpu_memory},
        tokens_per_second=tokens_per_second,
        completion_tokens=completion_tokens,
    )
    emit(found, show, as_json)
    if found["refused"]:
        raise typer.Exit(REFUSED)


def plan_data(config: "RunConfig", flow: str, workspace: str | None, *, machine: Data, **settings: Any) -> Data:
    """The plan of a flow; `machine` names GPUs in place of those that are here.

    Raises:
        ConfigError: there is no such flow or GPU; or as `preflight` raises.
    """
    from npo_core.planning import look, make_plan, model_size
    from npo_core.stages.forked import environment
    from npo_core.stages.preflight import preflight, require_model
    from npo_core.timeline import Store

    preflight(config, hub=False, weights=False)

    store = Store(workspace) if workspace else None
    folder = store.local("") if store is not None and store.is_local else None
    found = look(config, folder, measure=settings["tokens_per_second"] is None, **machine)
    size = model_size(config, environment(config.execution))
    if isinstance(size, str):
        require_model(config)
    if settings["completion_tokens"] is None and store is not None:
        settings["completion_tokens"] = measured_length(store)
    return make_plan(config, size, found, flow, folder=folder, **settings).as_dict()


def measured_length(store: "Store") -> int | None:
    """Mean tokens of a completion in all finished segments; None where there are none."""
    from npo_core.timeline import Timeline
    from npo_core.timeline.segments import read_steps

    columns = [read_steps(store, segment)["completion_length"] for segment in Timeline(store).segments()]
    lengths = [length for column in columns for length in column.to_pylist() if length is not None]
    return ceil(sum(lengths) / len(lengths)) if lengths else None


def show(data: Data, console: Console) -> None:
    """Print the plan's tables, what it assumes, what it does not know, and what to change."""
    from npo_core.planning.tables import conclusion, plan_tables

    for table in plan_tables(data):
        render(table, console)
    for title, style in (("assumptions", "dim"), ("unknown", "yellow"), ("changes", "red")):
        for sentence in data[title]:
            console.print(Text(sentence, style), soft_wrap=True)
    console.print(Text(conclusion(data), "bold"))
