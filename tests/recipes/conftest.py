"""Tiny runs, made here without Prefect."""

from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from npo_core.config import Plateau, RunConfig, override, parse_config
from npo_core.recipes.local import run_local
from npo_core.stages.workspace import Workspace
from tests.flows.conftest import AUTO, TINY
from tests.timeline.conftest import s3_endpoint  # noqa: F401  a fixture

Start = Callable[..., Workspace]


def tiny(**changes: object) -> RunConfig:
    """The tiny configuration; `changes` are dotted fields with `__` for the dot."""
    values = parse_config(TINY | {"auto": AUTO}).model_dump(mode="json")
    return parse_config(override(values, {name.replace("__", "."): value for name, value in changes.items()}))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of its own, no network, one thread."""
    folder = tmp_path_factory.mktemp("home")
    with patch.dict("os.environ", NPO_HOME=str(folder), HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1"):
        yield folder


@pytest.fixture(scope="session")
def start(home: Path) -> Start:
    """Follows a recipe in a folder with the tiny configuration, changed."""

    def run(recipe: str, folder: Path, plateau: Plateau | None = None, **changes: object) -> Workspace:
        run_local(recipe, tiny(**changes), str(folder), plateau=plateau)
        return Workspace(folder)

    return run


@pytest.fixture(scope="session")
def runs(start: Start, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Workspace]:
    """A finished run of each recipe; plateau-breakthrough on that of plain GRPO."""
    folder = tmp_path_factory.mktemp("runs")
    made = {recipe: start(recipe, folder / recipe) for recipe in ("grpo", "early-bootstrap", "auto-npo")}
    late = Plateau(rollback_step=8, guide_step=16)
    return made | {"plateau-breakthrough": start("plateau-breakthrough", folder / "grpo", late)}
