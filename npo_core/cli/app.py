"""The `npo` command.

Everything heavy is imported by the command that needs it, so that `npo --help` is quick.
"""

import traceback
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from npo_core.cli.approve import approve
from npo_core.cli.cache import cache
from npo_core.cli.config import config
from npo_core.cli.decide import decide
from npo_core.cli.evaluate import evaluate
from npo_core.cli.fork import fork
from npo_core.cli.join import join
from npo_core.cli.plan import plan
from npo_core.cli.problems import problems
from npo_core.cli.prove_replay import prove_replay
from npo_core.cli.prune import prune
from npo_core.cli.report import report
from npo_core.cli.run import run_app
from npo_core.cli.runs import runs
from npo_core.cli.samples import samples
from npo_core.cli.serve import serve
from npo_core.cli.signals import signals
from npo_core.cli.status import status
from npo_core.cli.timeline import timeline
from npo_core.cli.verify import verify
from npo_core.errors import NPOError, command_code

RUN, LOOK, PROVE = "Run", "Look", "Prove"
EPILOG = (
    "Exit codes: 0 done; 1 a proof found a difference; 2 wrong use of a command; 64 wrong setting; 65 data that "
    "does not fit; 66 something stored is damaged; 67 training diverged; 68 vLLM has other weights; "
    "69 too many answers could not be verified, or a hub does not answer; 70 a stage failed, or an error in the "
    "program; 71 out of memory; "
    "73 storage refused; 74 the accelerator failed, or a signal killed a stage; 75 the workspace is in use; "
    "76 an intervention waits for `npo approve`; 143 stopped. After 69, 73 and 74 the same command may succeed "
    "when started again."
)


class Guarded(TyperGroup):
    """Prints the project's own errors as their sentence on stderr and ends with their exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands, `run` first."""
        return sorted(super().list_commands(ctx), key=lambda name: name != "run")  # what comes first is shown first

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an error on purpose becomes one sentence and its exit code."""
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
    "Begin with: [cyan]npo run grpo --config demo --workspace runs/grpo --local[/]",
)
app.add_typer(run_app, name="run", rich_help_panel=RUN)
command: Callable[..., None]
for command in (fork, approve, prune, join, serve):
    app.command(rich_help_panel=RUN)(command)
for command in (
    runs,
    status,
    timeline,
    cache,
    report,
    samples,
    signals,
    decide,
    config,
    problems,
    verify,
    plan,
    evaluate,
):
    app.command(rich_help_panel=LOOK)(command)
app.command(rich_help_panel=PROVE)(prove_replay)


def main() -> None:
    """The console script's entry."""
    app()
