"""The algorithms, each once: a plain function of the steps it is made of (`steps.Steps`)."""

from collections.abc import Callable

from npo_core.config import Plateau
from npo_core.errors import ConfigError
from npo_core.names import AUTO_NPO, EARLY_BOOTSTRAP, FORK, GRPO, PLATEAU
from npo_core.recipes.auto_npo import auto_npo
from npo_core.recipes.early_bootstrap import early_bootstrap
from npo_core.recipes.fork import fork
from npo_core.recipes.grpo import grpo
from npo_core.recipes.plateau_breakthrough import plateau_breakthrough
from npo_core.recipes.steps import Report, Steps

RECIPES: dict[str, Callable[..., Report]] = {
    GRPO: grpo,
    EARLY_BOOTSTRAP: early_bootstrap,
    PLATEAU: plateau_breakthrough,
    AUTO_NPO: auto_npo,
    FORK: fork,
}


def follow(recipe: str, do: Steps, plateau: Plateau | None = None) -> Report:
    """Take the steps of a recipe to its end; its report.

    Args:
        plateau: settings of plateau-breakthrough, which the others do not have.

    Raises:
        ConfigError: there is no such recipe.
    """
    if recipe not in RECIPES:
        raise ConfigError(f"flow = {recipe}: choose one of {', '.join(RECIPES)}.")
    return RECIPES[recipe](do) if plateau is None else RECIPES[recipe](do, plateau)
