"""The command that says what a run will need."""

from pathlib import Path
from typing import Annotated

import typer

from flows.options import AsJson, Overrides, emit, parse_overrides

REFUSED = 64  # as a run's exit code would be


Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; `npo config` explains every field.")]
Flow = Annotated[str, typer.Option(help="grpo, early-bootstrap, plateau-breakthrough or auto-npo.")]
Gpus = Annotated[int | None, typer.Option(min=1, help="GPUs that train; sets execution.processes.")]
Gpu = Annotated[str | None, typer.Option(help="H200, H100, A100 or L4: its memory and speed.")]
GpuMemory = Annotated[float | None, typer.Option(min=0.1, help="GiB of each GPU.")]
Place = Annotated[str | None, typer.Option(help="Where the run lives or will live: its free disk is the limit.")]
Rate = Annotated[
    float | None, typer.Option(min=0.001, help="Generated tokens a second over whole stages, instead of an estimate.")
]
Length = Annotated[
    int | None,
    typer.Option(min=1, help="Expected mean length of completions; default: the workspace's, or the longest."),
]


def plan(
    config: Config,
    flow: Flow = "early-bootstrap",
    gpus: Gpus = None,
    gpu: Gpu = None,
    gpu_memory: GpuMemory = None,
    workspace: Place = None,
    tokens_per_second: Rate = None,
    completion_tokens: Length = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run will need before it starts: memory by part, disk, tokens, time; what does not fit, what to change.

    Needs no GPU and downloads no weights. Exits with 64 where a run would be refused. docs/planning.md
    tells how far off the estimates are.

    Example: [cyan]npo plan deployments/configs/qwen3-0.6b-gsm8k-1gpu.yaml --gpu L4[/]
    """
    from flows import show_plan
    from npo_core.config import load_config

    fields = parse_overrides(overrides or []) | ({} if gpus is None else {"execution.processes": gpus})
    chosen = load_config(config, fields)
    found = show_plan.plan_data(
        chosen,
        flow,
        workspace,
        machine={"gpu": gpu, "gpu_memory": gpu_memory},
        tokens_per_second=tokens_per_second,
        completion_tokens=completion_tokens,
    )
    emit(found, show_plan.plan, as_json)
    if found["refused"]:
        raise typer.Exit(REFUSED)
