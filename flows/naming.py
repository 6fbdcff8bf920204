"""Names of flow runs that tell them apart; a name that somebody typed is kept."""

import re
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from typing import Any

from prefect.runtime import flow_run

from npo_core.config import RunConfig
from npo_core.recipes.runs import runs_folder

GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|omicron|pi|rho|sigma|tau|upsilon|phi|chi"
)
# What the custom run forms propose where nobody types a name: the classic UI's stars, the second UI's animals.
CLASSIC = re.compile(rf"({GREEK}|psi|omega)\d*-[a-z]+(-[a-z]+)*")
SECOND = re.compile(
    "(Awesome|Rustic|Small|Gorgeous|Fantastic|Sleek|Intelligent|Unbranded|Refined|Licensed|Generic|Practical|Ergonomic"
    "|Handcrafted|Tasty|Handmade|Incredible)-[A-Z][A-Za-z]{1,5}"
)


def run_name() -> str:
    """`early-bootstrap smoke seed 0, 2026-11-27 16:40:12` (the start), unless the run has a name of its own."""
    given = flow_run.name or ""
    if given and not generated(given):
        return given
    return f"{flow_run.flow_name} {about(flow_run.parameters)}, {datetime.now():%Y-%m-%d %H:%M:%S}"


def about(parameters: dict[str, Any]) -> str:
    """What a run works on, in few words."""
    config, workspace = parameters.get("config"), parameters.get("workspace")
    if isinstance(config, RunConfig):
        return f"{config.name} {'fresh seed' if parameters.get('fresh_seed') else f'seed {config.seed}'}"
    if "origin" in parameters:
        return f"of {last_part(parameters['origin'])} at step {parameters['at']}"
    if "workspaces" in parameters:
        return f"of {len(parameters['workspaces'])} runs"
    if "at_most" in parameters:
        return f"of {last_part(parameters.get('folder') or runs_folder())}"
    return f"of {last_part(workspace)}" if workspace else "of a new run"


def last_part(uri: str) -> str:
    """What a run is called by where it lies."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def generated(name: str) -> bool:
    """Whether Prefect, or a form of its UIs, made a name up."""
    words = name.split("-")
    if len(words) == 2 and all(word in words_of_prefect() for word in words):
        return True
    return bool(CLASSIC.fullmatch(name) or SECOND.fullmatch(name))


@cache
def words_of_prefect() -> frozenset[str]:
    """What the server makes names of."""
    from coolname.data import config

    entries: Iterable[Any] = config.values()
    lists = [found for entry in entries for kind in ("words", "phrases") for found in entry.get(kind, [])]
    return frozenset(word for phrase in lists for word in (phrase.split() if isinstance(phrase, str) else phrase))
