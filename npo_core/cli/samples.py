"""`npo samples`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from npo_core.cli.options import AsJson, Uri, emit
from npo_core.cli.output import open_workspace
from npo_core.errors import ConfigError

if TYPE_CHECKING:
    from npo_core.reporting.samples import Group
    from npo_core.reporting.samples_page import Pictures
    from npo_core.stages.workspace import Workspace

IN_TERMINAL, ON_PAGE = 5, 500  # groups where --limit says nothing


def samples(
    workspace: Uri,
    step: Annotated[int | None, typer.Option(min=1, help="Of this optimizer update alone.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Groups without a right completion of the policy.")] = False,
    rescued: Annotated[bool, typer.Option("--rescued", help="Failed groups that took a trajectory.")] = False,
    injected: Annotated[bool, typer.Option("--injected", help="Groups that took a trajectory.")] = False,
    replayed: Annotated[bool, typer.Option("--replayed", help="Stored successes that were trained on again.")] = False,
    prompt: Annotated[str | None, typer.Option(help="Whose prompt id begins so.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Groups at most, the newest: 5 in a terminal, 500 on a page by default.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write one page with filters and pictures to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read what was generated and trained on: prompts, completions, verdicts, rewards, advantages, what was injected.

    There are samples where a run was trained with training.log_completions. What the policy did not write is marked
    with > and its source. --html writes a page that a browser opens without a server.

    Example: [cyan]npo samples runs/npo --step 40 --rescued[/]
    """
    from npo_core.reporting.samples import read_groups

    asked = {"failed": failed, "rescued": rescued, "injected": injected, "replayed": replayed}
    place = open_workspace(workspace)
    found = read_groups(place, step=step, prompt=prompt, flags=[name for name, on in asked.items() if on])
    groups = found[-(limit or (ON_PAGE if html else IN_TERMINAL)) :]
    if html:
        write_page(place, groups, html)
        Console(stderr=as_json).print(f"Written: {html}", markup=False, soft_wrap=True)
    if as_json:
        emit([group.plain() for group in groups], show, as_json)
    elif not html:
        show(groups, Console())
        if len(groups) < len(found):
            Console().print(f"The newest {len(groups)} of {len(found):,} groups; --limit shows more.", style="dim")


def write_page(workspace: "Workspace", groups: Sequence["Group"], file: Path) -> None:
    """Write the page. Raises ConfigError where the file cannot be written."""
    from npo_core.reporting.samples_page import samples_page

    page = samples_page(groups, f"Samples of {workspace.uri}", pictures_of(workspace))
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--html {file} cannot be written ({error.strerror}): give a file in an existing folder."
        ) from None


def pictures_of(workspace: "Workspace") -> "Pictures":
    """Gives the bytes of the images of a prompt."""
    from npo_core.problems.images import image_content
    from npo_core.stages.problems import kept_images

    refs = kept_images(workspace)
    return lambda prompt_id: map(image_content, refs.get(prompt_id, ()))


def show(groups: Sequence["Group"], console: Console) -> None:
    """Print each group: its prompt, then its completions."""
    from npo_core.problems.values import visible
    from npo_core.reporting.samples import figure, origin

    for group in groups:
        console.print(Text(f"{group.branch}, step {group.step}, prompt {group.prompt_id}: {group.told}", "bold"))
        console.print(Text(visible(group.prompt), "dim"), soft_wrap=True)
        for row in group.samples:
            own = row["kind"] == "policy"
            figures = f"{row['verdict']}, reward {figure(row['reward'])}, advantage {figure(row['advantage'], '+')}"
            style = "yellow" if not own else "green" if row["verdict"] == "correct" else ""
            console.print(Text(f"{' ' if own else '>'} [{origin(row)}] {figures}", style), soft_wrap=True)
            console.print(Text(visible(row["completion"])), soft_wrap=True)
        console.print()
