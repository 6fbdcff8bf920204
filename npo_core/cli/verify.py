"""`npo verify`."""

from pathlib import Path
from typing import Annotated

import typer

from npo_core.cli.options import AsJson, Overrides, emit, load, parse_overrides
from npo_core.cli.output import render


def verify(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; `npo config` explains every field.")],
    completion: Annotated[str | None, typer.Option(help="A completion; needs --answer.")] = None,
    answer: Annotated[str | None, typer.Option(help="Its reference, as it stands in the data.")] = None,
    file: Annotated[Path | None, typer.Option(help="JSON Lines with completion and answer, instead of both.")] = None,
    verifier: Annotated[str, typer.Option(help="One of problems.verifiers; default: problems.verifier.")] = "",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show what a configuration's verifier reads in completions and references, and its verdicts.

    No model and no data is needed. A completion counts as one that ended by itself.

    Example: [cyan]npo verify gsm8k.yaml --completion "so #### 30 eggs" --answer "#### 30"[/]
    """
    from npo_core.errors import ConfigError
    from npo_core.problems.verify import pair, read_pairs
    from npo_core.problems.verify import verify as verdicts
    from npo_core.reporting.verify import verdicts_table

    if (file is None) != (completion is not None and answer is not None):
        raise ConfigError("Give either --completion and --answer, or --file with rows of both.")
    chosen = load(config, parse_overrides(overrides or []))
    pairs = [pair(completion or "", answer or "")] if file is None else read_pairs(file)
    found = verdicts(chosen.problems, chosen.execution, pairs, verifier)
    emit(found, lambda data, console: render(verdicts_table(data), console), as_json)
