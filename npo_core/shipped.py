"""Where the files lie that come with the package: presets, flows, deployments. In a checkout they are beside it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from npo_core.errors import ConfigError


def shipped() -> Path:
    """The folder with `flows/`, `tasks/`, `deployments/` and prefect.yaml: the checkout, or what the wheel brought."""
    checkout = Path(__file__).parents[1]
    return checkout if (checkout / "prefect.yaml").exists() else Path(__file__).parent / "_shipped"


def presets() -> dict[str, Path]:
    """The files of `deployments/configs` by name."""
    return {path.stem: path for path in sorted((shipped() / "deployments" / "configs").glob("*.yaml"))}


def preset_file(name: str) -> Path:
    """The file of a preset. Raises ConfigError naming those that exist."""
    if name not in presets():
        raise ConfigError(f"There is no preset {name}: choose one of {', '.join(presets())}.")
    return presets()[name]


def pipeline(module: str) -> ModuleType:
    """A module of `flows/`, which needs Prefect.

    Raises:
        ConfigError: Prefect is not installed.
    """
    if str(shipped()) not in sys.path:
        sys.path.insert(0, str(shipped()))
    if importlib.util.find_spec("prefect") is None:  # imported, it would keep to the settings of before `module`
        raise ConfigError(
            "Prefect is not installed here: add --local to run without it, or install the extra `pipeline` "
            "(pip install 'npo-core[pipeline]')."
        )
    return importlib.import_module(module)
