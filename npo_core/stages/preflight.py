"""What would keep a run from its start and can be told in a second or two: the one look of all commands.

`npo problems`, `plan`, `run` (with Prefect, too) and `evaluate` take it before torch is imported anywhere.
"""

from collections.abc import Iterator

from npo_core.config import (
    Asked,
    AskedProblems,
    DataProblems,
    ModelGuide,
    PluginSource,
    PretrainedModel,
    Problems,
    RunConfig,
    TracesGuide,
    Training,
)
from npo_core.config.verifier import FunctionVerifier, Verifier, WeightedVerifier, leaves
from npo_core.errors import ConfigError
from npo_core.models.there import check_model
from npo_core.problems.count import part_rows
from npo_core.problems.draw import check_drawn
from npo_core.problems.functions import FunctionSource
from npo_core.problems.pool import Pool
from npo_core.stages.forked import environment


def preflight(
    config: RunConfig, *, hub: bool = True, weights: bool = True, rows: bool = True
) -> dict[str, FunctionSource]:
    """Look for the model, the users' functions, and rows enough for a batch.

    Args:
        hub: ask a hub for what is named by a hub id.
        weights: the model's weights are needed.
        rows: look at the files of problems.

    Returns:
        What `function_sources` finds.

    Raises:
        ConfigError: model or function is not there or cannot be used, or an epoch would have no batch.
        DataError: a file with problems cannot be read.
        HubError: a hub does not answer.
    """
    if isinstance(config.model, PretrainedModel):
        check_model(config.model.path, hub=hub, weights=weights)
    check_mix(config, hub=hub, weights=weights)
    if not isinstance(config.problems, Asked):
        return {}
    if not isinstance(config.problems, DataProblems):
        check_drawn(config.problems)
    if rows and (known := part_rows(config.problems)["train"]) is not None:
        check_number(known, config.training)
    return function_sources(config)


def check_mix(config: RunConfig, *, hub: bool, weights: bool) -> None:
    """Look for who guides in place of snapshots, and make the user's sources.

    Raises:
        ConfigError: a teacher, a file of traces or a source is not there or cannot be used. DataError: a file of traces
            cannot be read. HubError: a hub does not answer.
    """
    guide = config.mix.guide
    if isinstance(guide, ModelGuide):
        check_model(guide.path, hub=hub, weights=weights, field="mix.guide.path")
    elif isinstance(guide, TracesGuide):
        from npo_core.guidance.traces import read_traces

        read_traces(guide)
    if own := [source for source in config.mix.sources if isinstance(source, PluginSource)]:
        from npo_core.mix.plugin import plugin

        for source in own:
            plugin(source)


def require_model(config: RunConfig) -> None:
    """Raises ConfigError or HubError where there is no model, or none that the hub gives."""
    if isinstance(config.model, PretrainedModel):
        check_model(config.model.path)


def functions(problems: AskedProblems, opinion: Verifier | None) -> Iterator[tuple[FunctionVerifier, bool]]:
    """The functions that verify, each once, and whether it finds the accuracy; `opinion`: a second verifier."""
    named = [problems.verifier_named(name) for name in ("", *problems.verifiers)]
    seen: set[str] = set()
    for verifier in [*named, *([] if opinion is None else [opinion])]:
        right = [*leaves(verifier.accuracy.verifier)] if isinstance(verifier, WeightedVerifier) else None
        for leaf in leaves(verifier):
            if isinstance(leaf, FunctionVerifier) and leaf.path not in seen:
                seen.add(leaf.path)
                yield leaf, right is None or leaf in right


def function_sources(config: RunConfig) -> dict[str, FunctionSource]:
    """Where the functions that verify come from, by their paths, of those whose source is to be had.

    Raises:
        ConfigError: one cannot be imported or called.
    """
    found = sources_of(config.problems, config.guidance.verifier, environment(config.execution))
    return {path: source for path, source in found.items() if source is not None}


def sources_of(
    problems: Problems, opinion: Verifier | None, variables: dict[str, str] | None = None
) -> dict[str, FunctionSource | None]:
    """Of each function that verifies, by its path, where it comes from; None where its source is not to be had.

    Args:
        opinion: a second verifier.
        variables: the environment that it is looked for in; None: this process's, with its paths of modules.

    Raises:
        ConfigError: one cannot be imported or called.
    """
    if not isinstance(problems, Asked):
        return {}
    asked = functions(problems, opinion)
    return {v.path: check_function(v, accuracy, problems.answer_pattern, variables) for v, accuracy in asked}


def check_function(
    verifier: FunctionVerifier, accuracy: bool, pattern: str, variables: dict[str, str] | None
) -> FunctionSource | None:
    """Import a function and look at its signature, in a worker as stages start theirs. Raises ConfigError."""
    pool = Pool(verifier, pattern, workers=1, max_outages=0.0, accuracy=accuracy, environment=variables)
    pool([])
    return pool.source


def check_number(rows: int, training: Training) -> None:
    """Raises ConfigError if an epoch has no batch; names the largest number of prompts that there are enough for."""
    wanted = training.prompts_per_step
    if rows >= wanted:
        return
    fits = next((number for number in range(rows, 0, -1) if allowed(training, number)), None)
    remedy = "give more problems" if fits is None else f"set training.prompts_per_step = {fits}, or give more problems"
    raise ConfigError(
        f"There are {rows} training problems, less than training.prompts_per_step = {wanted}: an epoch would have no "
        f"batch; {remedy}."
    )


def allowed(training: Training, prompts: int) -> bool:
    """Whether the settings of training go together with another number of prompts."""
    try:
        Training.model_validate(training.model_dump() | {"prompts_per_step": prompts})
    except ValueError:
        return False
    return True
