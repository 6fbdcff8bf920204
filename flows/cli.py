"""The `npo` command.

Everything heavy is imported by the command that needs it, so that `npo --help` is quick.
"""

import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from flows.cli_decide import approve, decide, signals
from flows.cli_evaluate import evaluate
from flows.cli_plan import plan
from flows.cli_problems import problems
from flows.cli_run import run_app
from flows.options import AsJson, Baseline, Uri, emit
from npo_core.errors import ConfigError, NPOError, command_code

RUN, LOOK, PROVE = "Run", "Look", "Prove"
PRESETS = Path(__file__).parents[1] / "deployments" / "configs"
EPILOG = (
    "Exit codes: 0 done; 1 a proof found a difference; 2 wrong use of a command; 64 wrong setting; 65 data that "
    "does not fit; 66 something stored is damaged; 67 training diverged; 68 vLLM has other weights; "
    "69 too many answers could not be verified; 70 a stage failed, or an error in the program; 71 out of memory; "
    "73 storage refused; 74 the accelerator failed, or a signal killed a stage; 75 the workspace is in use; "
    "76 an intervention waits for `npo approve`; 143 stopped. After 69, 73 and 74 the same command may succeed "
    "when started again."
)


class Guarded(TyperGroup):
    """Prints the project's own errors as their sentence on stderr and ends with their exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: name != "run")  # what comes first is shown first

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except NPOError as error:
            from npo_core.problems.values import visible  # a message may hold a piece of the data

            sentence = f"Error: {visible(str(error))}"
            Console(stderr=True).print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(command_code(error)) from None
        except Exception as error:
            if isinstance(error, typer.Exit | typer.Abort | BrokenPipeError) or hasattr(error, "show"):  # of the parser
                raise
            traceback.print_exc()
            raise typer.Exit(command_code(error)) from None


app = typer.Typer(
    cls=Guarded,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    epilog=EPILOG,
    help="Near-Future Policy Optimization: train, look at runs, and prove what they claim.\n\n"
    "A run lives in a WORKSPACE: a folder or s3://bucket/prefix. Any command that is started again on the same "
    "workspace goes on where it was.\n\n"
    "Begin with: [cyan]npo run grpo --config deployments/configs/demo.yaml --workspace runs/grpo[/]",
)
app.add_typer(run_app, name="run", rich_help_panel=RUN)
app.command(rich_help_panel=RUN)(approve)
app.command(rich_help_panel=LOOK)(decide)
app.command(rich_help_panel=LOOK)(evaluate)
app.command(rich_help_panel=LOOK)(plan)
app.command(rich_help_panel=LOOK)(problems)
app.command(rich_help_panel=LOOK)(signals)


@app.command(rich_help_panel=LOOK)
def status(workspace: Uri, as_json: AsJson = False) -> None:
    """Show how far a run is: stages done, running, failed and left, with their progress and cost.

    Reads only files, so it works while the run goes on, from another terminal.

    Example: [cyan]npo status runs/npo[/]
    """
    from flows import show

    emit(show.status_data(workspace), show.status, as_json)


@app.command(rich_help_panel=LOOK)
def timeline(workspace: Uri, as_json: AsJson = False) -> None:
    """Draw a run's branches: where the scout left, where the replay began, which segment was guided by what.

    Prints a tree, then a table of segments with their ids and costs.

    Example: [cyan]npo timeline runs/npo[/]
    """
    from flows import show

    emit(show.timeline_data(workspace), show.timeline, as_json)


@app.command(rich_help_panel=LOOK)
def cache(
    uri: Annotated[str, typer.Argument(metavar="URI", help="Workspace, or the folder of one guidance cache.")],
    as_json: AsJson = False,
) -> None:
    """Show what guidance holds: trajectories, coverage Q, lengths, guides, and what each trajectory cost.

    Prints a table for every cache of a workspace, or for the one cache in a folder.

    Example: [cyan]npo cache runs/npo[/]
    """
    from flows import show

    emit(show.cache_data(uri), show.cache, as_json)


@app.command(rich_help_panel=LOOK)
def report(workspace: Uri, baseline: Baseline = None, as_json: AsJson = False) -> None:
    """Write a run's report anew: report/report.md, report.json and two pictures, in the workspace.

    Prints its main tables. With a baseline: what both took to reach pass rates, and what both reach at equal cost.

    Example: [cyan]npo report runs/npo --baseline runs/grpo[/]
    """
    from flows import show

    emit(show.report_data(workspace, baseline), show.report, as_json)
    if not as_json:
        Console().print(f"Written: {workspace.rstrip('/')}/report/report.md", markup=False, soft_wrap=True)


@app.command(rich_help_panel=LOOK)
def config(
    preset: Annotated[str | None, typer.Option(help="A file of deployments/configs by name, for example demo.")] = None,
    as_json: AsJson = False,
) -> None:
    """Explain every setting: default, allowed values, unit and meaning.

    Prints a table; with --preset also that file's values, changed ones marked with an asterisk. --json prints the JSON
    schema, or with --preset the resolved values.

    Example: [cyan]npo config --preset demo[/]
    """
    from flows import show
    from npo_core.config import load_config

    chosen = None if preset is None else load_config(preset_file(preset))
    emit(show.config_data(chosen), lambda data, console: show.settings(chosen, console), as_json)


def preset_file(name: str) -> Path:
    """The file of a preset. Raises ConfigError naming those that exist."""
    known = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"There is no preset {name}: choose one of {', '.join(known) or '(none in this checkout)'}.")
    return PRESETS / f"{name}.yaml"


@app.command(rich_help_panel=PROVE)
def prove_replay(
    workspace: Uri,
    segment: Annotated[
        str | None, typer.Option(help="Id of an unguided segment, see `npo timeline`; the first if not given.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates to replay, up to a snapshot; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prove exactness: roll back, replay a segment without guidance, and compare it bit for bit with the original.

    Prints what was compared (token ids, losses, weights) and where it first differs. Exits with 1 if anything does.

    Example: [cyan]npo prove-replay runs/npo --steps 20[/]
    """
    from flows import show
    from npo_core.stages.prove import prove_replay as prove

    found = prove(workspace, segment, **({} if steps is None else {"steps": steps}))
    emit(found, show.proof, as_json)
    if not found["equal"]:
        raise typer.Exit(1)


def main() -> None:
    """The console script's entry."""
    app()


if __name__ == "__main__":
    main()
