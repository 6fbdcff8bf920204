"""What each stage of a flow does, at most: updates, completions, tokens, snapshots."""

from dataclasses import dataclass
from math import ceil, inf

from npo_core.config import ChainProblems
from npo_core.errors import ConfigError
from npo_core.planning.setting import Setting

FLOWS = ("grpo", "early-bootstrap", "plateau-breakthrough", "auto-npo")


@dataclass(frozen=True)
class Work:
    """A stage. Completions are None where only reading the data would tell how many; `scored` are passed once more."""

    stage: str
    label: str
    updates: int = 0
    completions: int | None = 0
    at_once: int = 1  # completions of one generation batch
    scored: int = 0
    snapshots: int = 0
    sure: bool = True  # it is done whatever the run decides

    def tokens(self, length: float) -> int | None:
        """Generated tokens where a completion has `length`."""
        return None if self.completions is None else round(self.completions * length)


def stages_of(setting: Setting, flow: str) -> list[Work]:
    """The stages of a flow in order.

    Raises:
        ConfigError: there is no such flow.
    """
    makers = {"grpo": grpo, "early-bootstrap": early, "plateau-breakthrough": plateau, "auto-npo": auto}
    if flow not in makers:
        raise ConfigError(f"flow = {flow}: choose one of {', '.join(FLOWS)}.")
    return makers[flow](setting)


def grpo(setting: Setting) -> list[Work]:
    steps = setting.config.training.steps
    return [train(setting, "train main", steps), evaluate(setting, steps)]


def early(setting: Setting) -> list[Work]:
    steps, rest = setting.config.training.steps, setting.config.training.steps - setting.config.bootstrap.scout_steps
    last = [train(setting, "train replay, unguided", rest)] if rest else []
    return [*bootstrap(setting), *last, evaluate(setting, steps)]


def bootstrap(setting: Setting) -> list[Work]:
    plan = setting.config.bootstrap
    scout = train(setting, "train scout", plan.scout_steps)
    asked = [guide(setting, met(setting, plan.scout_steps), len(plan.guide_steps))] if plan.guided else []
    return [scout, *asked, train(setting, "train replay" + ", guided" * plan.guided, plan.scout_steps)]


def plateau(setting: Setting) -> list[Work]:
    steps = setting.config.training.steps
    return [
        train(setting, "train, where the run is not trained yet", steps, sure=False),
        guide(setting, met(setting, steps)),
        train(setting, "train replay, guided", steps, sure=False),
        evaluate(setting, 2 * steps),
    ]


def auto(setting: Setting) -> list[Work]:
    config, plan = setting.config, setting.config.auto
    scout = config.bootstrap.scout_steps if plan.bootstrap == "scout" else 0
    left = inf if plan.budget_updates is None else plan.budget_updates - 2 * scout
    updates = min(config.training.steps - scout, left)
    replays = min(plan.max_interventions * plan.choice.max_delta, left - updates)
    asked = plan.probe.prompts * plan.probe.samples
    prompts = plan.max_interventions * min(plan.control.pool.size, met(setting, plan.choice.max_delta))
    return [
        *(bootstrap(setting) if scout else []),
        train(setting, "train", updates),
        Work("probe", "each probe", completions=asked, at_once=asked, scored=2 * asked),
        *([guide(setting, prompts)] if plan.guided and prompts else []),
        *([train(setting, "train replays", replays, sure=False)] if replays else []),
        evaluate(setting, updates + replays + 2 * scout),
    ]


def train(setting: Setting, label: str, updates: int, sure: bool = True) -> Work:
    training = setting.config.training
    batches = ceil(updates / training.updates_per_batch)
    snapshots = ceil(updates / training.snapshot_every)
    return Work("train", label, updates, batches * training.batch, training.batch, snapshots=snapshots, sure=sure)


def met(setting: Setting, updates: int) -> int:
    """Prompts that training meets in so many updates."""
    training, problems = setting.config.training, setting.config.problems
    prompts = ceil(updates / training.updates_per_batch) * training.prompts_per_step
    return min(prompts, problems.train) if isinstance(problems, ChainProblems) else prompts


def guide(setting: Setting, prompts: int, guides: int = 1) -> Work:
    """Every prompt asked as often as allowed: what is passed, or solved early, takes less."""
    guidance = setting.config.guidance
    at_once = min(guidance.chunk_prompts, prompts) * guidance.samples_per_round
    return Work("guide", "guide", 0, guides * prompts * guidance.samples, at_once, scored=prompts)


def evaluate(setting: Setting, updates: int) -> Work:
    evaluation, held_out = setting.config.evaluation, setting.held_out
    number = ceil(updates / evaluation.every) + 1
    benchmarks, times = setting.benchmarks, number if evaluation.benchmarks == "all" else 1
    known = held_out is not None and benchmarks is not None
    rows = evaluation.samples * (number * held_out + times * benchmarks) if known else None
    return Work("evaluate", f"evaluate {number} snapshots", 0, rows, evaluation.batch)
