"""Artifacts over several runs: the table of all, renewed by every run, and any of them side by side."""

from collections.abc import Sequence
from contextlib import suppress

from npo_core.errors import ConfigError, NPOError
from npo_core.recipes.run import Run
from npo_core.recipes.runs import all_runs, row, runs_folder, runs_table
from npo_core.reporting.run_data import load
from npo_core.reporting.several import differences, several
from npo_core.reporting.tables import markdown
from npo_core.stages.workspace import Workspace
from npo_core.tracking import links
from tasks.artifacts import key_of, picture, publish, trackers, where

RUNS = "runs"  # the key of the table's artifact


def publish_runs() -> None:
    """Renew the table of all runs; whatever is wrong with one of them, or with the folder, is no matter of this run."""
    publish(RUNS, f"All runs in {runs_folder()}", runs_text)


def publish_trackers(run: Run) -> None:
    """Where trackers show a run, as an artifact; none where they are not told of it."""
    if found := links(run.workspace.store):
        title = "Where trackers show the run"
        publish(key_of(run.config.name, "tracking"), title, where(run.workspace.uri), trackers(found))


def runs_text() -> str:
    folder = runs_folder()
    with suppress(NPOError):
        return f"## Runs in `{folder}`\n\n{markdown(runs_table(folder, all_runs(folder)))}"
    return ""


def publish_comparison(workspaces: Sequence[str], key: str) -> str:
    """Publish two or more runs side by side; one sentence of what they reached.

    Raises:
        ConfigError: fewer than two. DataError: one of them holds no run.
    """
    if len(workspaces) < 2:
        raise ConfigError(f"workspaces = {list(workspaces)}: a comparison needs two or more, one a line.")
    places = [Workspace(uri) for uri in workspaces]
    runs, names = [load(place) for place in places], short_names(workspaces)
    publish(
        key,
        f"{len(runs)} runs side by side",
        f"## {len(runs)} runs side by side",
        markdown(runs_table("", [row(place) for place in places])),
        lambda: picture(several(runs, names), "held-out curves"),
        "### Settings that differ",
        markdown(differences(runs, names)),
        "\n".join(f"* {name}: `{uri}`" for name, uri in zip(names, workspaces, strict=True)),
    )
    reached = [f"{name} {run.points[-1].pass_rate:.3f}" for name, run in zip(names, runs, strict=True) if run.points]
    return f"Held-out: {', '.join(reached) or 'nothing evaluated yet'}."


def short_names(workspaces: Sequence[str]) -> list[str]:
    """The last part of each URI; the whole where these are not all different."""
    names = [uri.rstrip("/").rsplit("/", 1)[-1] for uri in workspaces]
    return names if len(set(names)) == len(names) else list(workspaces)
