"""`npo run`: one command for each recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from npo_core.cli.options import (
    AsJson,
    Baseline,
    ConfigFile,
    Local,
    Method,
    Overrides,
    Seed,
    Shrink,
    WorkspaceUri,
    emit,
    load,
    parse_overrides,
)
from npo_core.cli.report import show
from npo_core.errors import ConfigError
from npo_core.shipped import pipeline

if TYPE_CHECKING:
    from npo_core.config import Plateau, RunConfig
    from npo_core.recipes.steps import Report

run_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Train: plain GRPO, or NPO in one of its three forms."
)


@run_app.command("early-bootstrap")
def run_early_bootstrap(
    config: ConfigFile,
    workspace: WorkspaceUri,
    seed: Seed = None,
    overrides: Overrides = None,
    method: Method = None,
    baseline: Baseline = None,
    shrink: Shrink = False,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Run NPO's early-stage bootstrapping: scout, guidance, rollback, guided replay, evaluation, report.

    Prints the progress of each stage on stderr, and the report's main tables at the end.

    Example: [cyan]npo run early-bootstrap --config deployments/configs/demo.yaml --workspace runs/npo --seed 1
    --set bootstrap.scout_steps=40 --baseline runs/grpo[/]
    """
    chosen = resolve("early-bootstrap", config, seed, parse_overrides(overrides or []), shrink, method)
    run_recipe("early-bootstrap", chosen, workspace, baseline, as_json, local)


@run_app.command("grpo")
def run_grpo(
    config: ConfigFile,
    workspace: WorkspaceUri,
    seed: Seed = None,
    overrides: Overrides = None,
    method: Method = None,
    baseline: Baseline = None,
    shrink: Shrink = False,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Run plain GRPO, the baseline: training, evaluation, report.

    Prints the progress of each stage on stderr, and the report's main tables at the end.

    Example: [cyan]npo run grpo --config deployments/configs/demo.yaml --workspace runs/grpo --set training.steps=100[/]
    """
    chosen = resolve("grpo", config, seed, parse_overrides(overrides or []), shrink, method)
    run_recipe("grpo", chosen, workspace, baseline, as_json, local)


@run_app.command("auto-npo")
def run_auto_npo(
    config: ConfigFile,
    workspace: WorkspaceUri,
    seed: Seed = None,
    overrides: Overrides = None,
    method: Method = None,
    baseline: Baseline = None,
    shrink: Shrink = False,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Run AutoNPO: train until the signals warn, probe, and do what solves most failures a token, or nothing.

    That may be more samples for the failures, guidance by an earlier snapshot, or a rollback with a guided replay. With
    --method auto-npo it weighs rollbacks alone, as published.

    Prints the progress of each stage on stderr, and the report's main tables at the end. With auto.approval=ask it ends
    with exit code 76 before an intervention; answer with `npo approve` and start the same command again.

    Example: [cyan]npo run auto-npo --config deployments/configs/demo.yaml --workspace runs/auto
    --set auto.max_interventions=2[/]
    """
    chosen = resolve("auto-npo", config, seed, parse_overrides(overrides or []), shrink, method)
    run_recipe("auto-npo", chosen, workspace, baseline, as_json, local)


@run_app.command("plateau-breakthrough")
def run_plateau_breakthrough(
    workspace: WorkspaceUri,
    config: Annotated[
        Path | None, typer.Option(help="YAML file; needed only where the workspace holds no run yet.")
    ] = None,
    branch: Annotated[str | None, typer.Option(help="Branch to work on; default: the run's final one.")] = None,
    rollback_step: Annotated[
        int | None, typer.Option(help="Step to roll back to; default: where the plateau is found to begin.")
    ] = None,
    guide_step: Annotated[
        int | None, typer.Option(help="Step of the snapshot that guides; default: the branch's newest.")
    ] = None,
    until: Annotated[
        int | None, typer.Option(help="Step at which the new branch ends; default: the end of the run.")
    ] = None,
    seed: Seed = None,
    overrides: Overrides = None,
    method: Method = None,
    baseline: Baseline = None,
    shrink: Shrink = False,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Break through a plateau: roll a run back to where it began, and replay guided by its own later snapshot.

    Works on any run that was trained before. The same settings on the same run are the same intervention. Fields of
    --set that begin with plateau. are its settings: plateau.guided=false, plateau.trigger.window=40.

    Example: [cyan]npo run plateau-breakthrough --workspace runs/grpo --rollback-step 120 --guide-step 200[/]
    """
    fields = parse_overrides(overrides or [])
    steps = {"branch": branch, "rollback_step": rollback_step, "guide_step": guide_step, "until": until}
    plateau = plateau_settings(steps, fields)
    others = {name: value for name, value in fields.items() if not name.startswith("plateau.")}
    if config is None and (others or seed is not None or method is not None):
        named = [*others, *(["seed"] if seed is not None else []), "method"]
        raise ConfigError(
            f"{named[0]}: without --config the run keeps the settings that it has; only fields that begin with "
            "plateau. can be set."
        )
    resolved = None if config is None else resolve("plateau-breakthrough", config, seed, others, shrink, method)
    run_recipe("plateau-breakthrough", resolved, workspace, baseline, as_json, local, plateau)


def plateau_settings(steps: dict[str, Any], fields: dict[str, Any]) -> "Plateau":
    """The options that were given, and the fields that begin with plateau."""
    from npo_core.config import override, parse_plateau

    given = {name: value for name, value in steps.items() if value is not None}
    own = {name: value for name, value in fields.items() if name.startswith("plateau.")}
    return parse_plateau(override({"plateau": given}, own)["plateau"])


def resolve(
    recipe: str, config: Path, seed: int | None, fields: dict[str, Any], shrink: bool, method: str | None = None
) -> "RunConfig":
    """The configuration of a file for a recipe, with the fields and the seed that win over it; shrunk for a trial."""
    named = {"seed": seed, "method": method}
    resolved = load(config, fields | {name: value for name, value in named.items() if value is not None}, recipe)
    if not shrink:
        return resolved
    from npo_core.stages.shrink import replaced
    from npo_core.stages.shrink import shrink as shrunk

    small = shrunk(resolved)
    for sentence in replaced(resolved):
        Console(stderr=True).print(sentence, style="yellow", markup=False, soft_wrap=True)
    return small


def run_recipe(
    recipe: str,
    config: "RunConfig | None",
    workspace: str,
    baseline: str | None,
    as_json: bool,
    local: bool,
    plateau: "Plateau | None" = None,
) -> None:
    """Run a recipe to its end and show its report; what is refused is refused before anything heavy is imported."""
    from npo_core.recipes.run import look_first
    from npo_core.stages.workspace import absolute

    look_first(config, absolute(workspace))
    settings = {} if plateau is None else {"plateau": plateau}
    baseline = absolute(baseline) if baseline else None
    run = run_here if local else pipeline("flows.run").run_flow
    emit(run(recipe, config, absolute(workspace), baseline, **settings), show, as_json)
    if not as_json:
        Console().print(f"The report is in {workspace.rstrip('/')}/report/report.md", markup=False, soft_wrap=True)


def run_here(
    recipe: str, config: "RunConfig | None", workspace: str, baseline: str | None, plateau: "Plateau | None" = None
) -> "Report":
    """Run a recipe's stages from this process, after a look at whether they fit.

    Raises:
        NPOError: bad input, or a stage that failed; whatever was finished stays.
    """
    from npo_core.planning import plan_run
    from npo_core.recipes.local import run_local
    from npo_core.recipes.progress import Progress
    from npo_core.stages.workspace import Workspace

    config = config or Workspace(workspace).config()
    made = plan_run(config, workspace, recipe)
    made.require()
    for sentence in made.changes:
        Console(stderr=True).print(f"This may not fit. {sentence}", style="yellow", markup=False, soft_wrap=True)
    return run_local(recipe, config, workspace, baseline, plateau, Progress)
