"""What was mixed into a run, and what came of it."""

from npo_core.reporting.run_data import RunData
from npo_core.reporting.tables import Table, number

SUMS = {  # column of a segment's steps -> what it says, added over updates
    "tokens_extra": "generated tokens of extra samples",
    "prompts_rescued": "dead groups that extra samples rescued",
    "prompts_chosen": "places of batches that a source of prompts filled",
    "groups_left_dead": "dead groups left after dynamic sampling",
    "rows_replayed": "stored successes trained on again",
    "groups_injected": "groups that took a trajectory",
}
ENDS = {  # how much there is at the end
    "store_size": "prompts in the success store at the end",
    "pool_size": "prompts in the mistake pool at the end",
    "queue_size": "prompts in the review queue at the end",
}


def mixed_table(run: RunData) -> Table | None:
    """Totals over the path to the result; None where nothing was mixed in but a cache."""
    if not run.config.mix.online:
        return None
    rows = []
    for name, words in SUMS.items():
        if values := known(run, name):
            rows.append([words, number(sum(values)), number(sum(values) / len(values), 2)])
    for name, words in ENDS.items():
        if values := known(run, name):
            rows.append([words, number(values[-1]), ""])
    return Table("Mixed in", ["", "in all", "a batch"], rows, "docs/mix.md tells what each part does.")


def known(run: RunData, name: str) -> list[float]:
    """The values of a column of the steps, without those that are not there."""
    return [value for value in run.steps[name] if value is not None]


def in_words(run: RunData) -> str:
    """The parts of `mix` in a sentence, with the method's name where it has one."""
    mix = run.config.mix
    parts: list[str] = [source.kind for source in mix.sources]
    parts += [source.kind for source in mix.prompts] + ["replay of rare successes"] * (mix.replay is not None)
    named = f"Method {run.config.method}: " if run.config.method else "Mixed in: "
    guide = [f"a cache by {mix.guide.kind} from step {mix.guide.from_step}"] if mix.guide else []
    return f"{named}{', '.join([*guide, *parts]) or 'as the recipe has it'}."
