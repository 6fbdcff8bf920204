"""The run that a recipe works on: configuration, workspace and lock, and the specifications of its stages."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from npo_core.config import ExtrapolatedGuide, NearestGuide, Plateau, RunConfig
from npo_core.engines.open import require_engine
from npo_core.errors import ConfigError, DataError
from npo_core.mix.rescue import mix_of
from npo_core.names import DRAWS, FORK, FORK_FILE, GRPO, PLATEAU, RESULT_FILE, STARTED_FILE
from npo_core.stages.forked import accelerated
from npo_core.stages.functions import keep_functions, require_same_functions
from npo_core.stages.nodes import first_place
from npo_core.stages.preflight import function_sources, preflight
from npo_core.stages.specs import BaseSpec, EvaluateSpec, GuideSpec, ProbeSpec, TrainSpec
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Fork, read_fork, workspace_lock
from npo_core.timeline.lock import require_free
from npo_core.tracking import followed, require_trackers

FRESH = 1_000_003  # added to the seed where randomness is to differ from the scout's


@dataclass(frozen=True)
class Run:
    """A configuration bound to a workspace; makes the specification of each stage."""

    config: RunConfig
    workspace: Workspace

    @property
    def common(self) -> dict[str, Any]:
        """What every specification has."""
        config = self.config
        return {
            "workspace": self.workspace.uri,
            "execution": config.execution,
            "engine": config.engine,
            "problems": config.problems,
        }

    def base(self) -> BaseSpec:
        """The specification of the base model's stage."""
        return BaseSpec(model=self.config.model, **self.common)

    def train(
        self,
        *,
        branch: str,
        start: str,
        until: int,
        cache: str | None = None,
        fresh: int = 0,
        quiet_until: int | None = None,
        token_limit: int | None = None,
        rescue: bool = False,
    ) -> TrainSpec:
        """A segment.

        Args:
            fresh: which random numbers to sample with, 0 those of the run; the order of the data stays.
            quiet_until: the run is watched, and a warning after this update ends the segment; None: not watched.
            token_limit: generated tokens after which the segment ends.
            rescue: failures come again and dead groups are guided, by the cache or, without one, by extra samples.
        """
        config = self.config
        mix, injection = config.mix.in_training, config.injection
        if rescue:
            mix, injection = mix_of(config, extra=cache is None), injection.model_copy(update={"gate": "dead"})
        return TrainSpec(
            training=config.training,
            injection=injection,
            mix=mix,
            guidance=config.guidance if mix.online else None,
            rescue=(config.auto.rescue, config.auto.probe.min_solved) if rescue else None,
            seed=config.seed,
            sampling_seed=config.seed + FRESH * fresh,
            branch=branch,
            start=start,
            until=until,
            cache=cache,
            control=None if quiet_until is None else config.auto.control,
            quiet_until=quiet_until or 0,
            token_limit=token_limit,
            **self.common,
        )

    def guide(
        self,
        *,
        guides: list[str],
        rollback: str,
        segments: list[str],
        pool_only: bool = False,
        failures: bool = False,
        until: int | None = None,
    ) -> GuideSpec:
        """Guidance for the prompts that `segments` met between the two; `pool_only`: for the mistakes among them.

        `failures`: for what the mistake pool of `rollback` holds, by a guide from behind.
        `until`: for those that the data's order asks up to this update, by the guides or, without any, `mix.guide`.
        """
        config = self.config
        return GuideSpec(
            training=config.training,
            guidance=config.guidance,
            tau_gate=config.injection.tau_gate,
            seed=config.seed,
            guides=guides,
            rollback=rollback,
            segments=segments,
            pool_only=pool_only,
            failures=failures,
            until=until,
            outside=None if guides else config.mix.guide,
            horizons=list(config.mix.guide.horizons) if isinstance(config.mix.guide, ExtrapolatedGuide) else [],
            by_kl=isinstance(config.mix.guide, NearestGuide) and config.mix.guide.by == "kl",
            **self.common,
        )

    def probe(self, *, snapshot: str, candidates: list[str]) -> ProbeSpec:
        """The specification of a probe of a snapshot by candidates."""
        config = self.config
        return ProbeSpec(
            control=config.auto.control,
            probe=config.auto.probe,
            max_completion_tokens=config.training.max_completion_tokens,
            bf16=config.training.bf16,
            seed=config.seed,
            snapshot=snapshot,
            candidates=candidates,
            now=config.auto.choice.now,
            **self.common,
        )

    def evaluate(self, snapshots: list[str]) -> EvaluateSpec:
        """The specification of an evaluation of snapshots."""
        return EvaluateSpec(
            evaluation=self.config.evaluation,
            snapshots=snapshots,
            max_completion_tokens=self.config.training.max_completion_tokens,
            bf16=self.config.training.bf16,
            **self.common,
        )


def require_recipe(config: RunConfig, recipe: str) -> None:
    """Raises ConfigError where the configuration's method is for another recipe, or `mix` needs one.

    A fork takes any: it goes on as the run before did, whose recipe it was. So does a plateau breakthrough; where
    nothing was trained yet it begins as GRPO, which `require_trained` looks at.
    """
    if recipe == FORK:
        return
    if config.recipe not in (None, recipe) and recipe != PLATEAU:
        raise ConfigError(
            f"method = {config.method} is for the recipe {config.recipe}, not {recipe}: run that one, or leave the "
            "method out."
        )
    if config.mix.guide is not None and recipe != GRPO:
        raise ConfigError(
            f"mix.guide is for the recipe {GRPO}, and {recipe} has guides of its own: run {GRPO}, or leave it out in a "
            "new workspace."
        )


def look_first(config: RunConfig | None, uri: str) -> RunConfig:
    """Refuse what is refused in any case, quick looks first; nothing is written. The configuration of the run.

    Args:
        config: None: the one that the workspace holds. Once its base is made, model and rows are in the workspace.

    Raises:
        NPOError: the workspace is in use or belongs to a run with other settings; or as `preflight` raises.
    """
    workspace = Workspace(uri)
    require_free(workspace.store)
    config = config or workspace.config()
    workspace.require_same(config)
    require_same_draws(workspace)
    require_trackers(config.tracking)
    first_place(config.execution)
    taken_in = workspace.store.exists(f"{Run(config, workspace).base().folder}/{RESULT_FILE}")
    require_same_functions(workspace, config, function_sources(config) if taken_in else preflight(config))
    return config


def require_same_draws(workspace: Workspace) -> None:
    """Refuse to go on with a run that was trained with other random numbers: its replays would be other runs.

    Raises:
        ConfigError: says what still works.
    """
    noted = workspace.store.read_json(STARTED_FILE, default={})
    if noted.get("draws") != DRAWS and workspace.store.list("segments"):
        raise ConfigError(
            f"The workspace {workspace.uri} was trained by npo before 0.3, which drew other random numbers, so a "
            "replay would not repeat it: give another workspace. status, timeline, report, signals and decide read it."
        )


def forked_from(workspace: Workspace) -> Fork:
    """Where the run in a workspace was forked from. Raises DataError where it was not."""
    if (record := read_fork(workspace.store)) is None:
        raise DataError(
            f"{workspace.uri} was not forked from a run ({FORK_FILE} is not there): make a fork with `npo fork`."
        )
    return record


def require_recipe_of_fork(workspace: Workspace, recipe: str) -> None:
    """Refuse to begin another recipe where a run was forked: its path begins in the run before.

    Raises:
        ConfigError: says what still works. DataError: the recipe is that of a fork, and nothing was forked.
    """
    if recipe == FORK:
        forked_from(workspace)
    if recipe in (FORK, PLATEAU) or (there := read_fork(workspace.store)) is None:
        return
    raise ConfigError(
        f"workspace = {workspace.uri} was forked at step {there.step} of {there.workspace}, and {recipe} begins at the "
        f"base: start the same `npo fork` again to go on, run {PLATEAU} on it, or give another workspace."
    )


def require_trained(workspace: Workspace, config: RunConfig, recipe: str) -> None:
    """Raises ConfigError where a plateau breakthrough would begin as GRPO, and the method begins otherwise."""
    trained = workspace.store.list("segments") or read_fork(workspace.store) is not None
    if recipe == PLATEAU and config.recipe not in (None, GRPO, PLATEAU) and not trained:
        raise ConfigError(
            f"method = {config.method} begins with the recipe {config.recipe}, and nothing was trained in "
            f"{workspace.uri} yet: run {config.recipe} on it first, or leave the method out."
        )


@contextmanager
def open_run(
    config: RunConfig,
    uri: str,
    recipe: str,
    plateau: Plateau | None = None,
    about: Mapping[str, str] | None = None,
) -> Iterator[Run]:
    """Take the workspace for this process, bind the configuration to it, note what is started, and tell trackers of it.

    `about`: what they show of the run besides its settings, such as the flow run.

    Raises:
        WorkspaceBusyError: another process works on it. ConfigError: it belongs to a run with other settings, or there
            is no such engine or tracker here as the configuration asks for.
    """
    require_recipe(config, recipe)
    require_engine(config.engine, gpu=accelerated(config.execution))
    workspace = Workspace(uri)
    require_recipe_of_fork(workspace, recipe)
    require_trained(workspace, config, recipe)
    with workspace_lock(workspace.store, owner=f"npo {config.name}"):
        require_same_draws(workspace)
        workspace.store.clean_leftovers()
        if said := workspace.bind(config):
            print(said, file=sys.stderr, flush=True)
        settings = None if plateau is None else plateau.model_dump(mode="json")
        note = {"recipe": recipe, "plateau": settings, "folder": os.getcwd(), "draws": DRAWS}
        workspace.store.write_json(STARTED_FILE, note)
        keep_functions(workspace, config, function_sources(config))
        with followed(config, workspace, {"recipe": recipe, **(about or {})}):
            yield Run(config, workspace)
    if not workspace.store.is_local:  # a finished run needs its downloads no more
        shutil.rmtree(workspace.scratch, ignore_errors=True)
