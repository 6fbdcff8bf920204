"""Completions that were cut off, and those without an answer: how many, and what to do where they are many."""

from collections.abc import Sequence

from npo_core.reporting.records import Metrics
from npo_core.reporting.run_data import RunData
from npo_core.reporting.segment import divided, named
from npo_core.reporting.tables import NONE, Table, number

MANY = 0.3  # share above which a report says what to do


def share(value: float | None) -> str:
    """A share in percent."""
    return NONE if value is None else f"{100 * value:.1f} %"


def hints(cut_off: float | None, no_answer: float | None, limit: int | None = None) -> list[str]:
    """What to do about shares above `MANY`; `limit`: tokens that a completion may have."""
    said = []
    if cut_off is not None and cut_off > MANY:
        at = "training.max_completion_tokens" + ("" if limit is None else f" = {limit}")
        said.append(
            f"{share(cut_off)} of the answers were cut off at {at}, and so count as wrong: allow more, or ask for "
            "shorter answers (problems.system_prompt, a reward for length)."
        )
    if no_answer is not None and no_answer > MANY:
        said.append(
            f"{share(no_answer)} of the answers have no final answer that the verifier can read: look at some, and at "
            "problems.answer_pattern and problems.system_prompt."
        )
    return said


def completions_table(run: RunData) -> Table | None:
    """Length, share cut off and share without an answer, by parts of each segment; None where nothing was trained."""
    if not run.segments:
        return None
    most = 4 if len(run.segments) <= 4 else 2
    parts = [(segment, a, b) for segment in run.segments for a, b in divided(segment.t0, segment.t1, most)]
    found = {(segment, a, b): run.updates(segment).between(a, b) for segment, a, b in parts}
    rows = [[named(segment, a, b), *cells(part, run.config.training.batch)] for (segment, a, b), part in found.items()]
    newest = [*found.values()][-1]
    note = "The policy's own completions in training. Those that were cut off at the limit count as wrong."
    batch, limit = run.config.training.batch, run.config.training.max_completion_tokens
    said = hints(newest.mean("cut_off"), without_answer(newest, batch), limit)
    return Table("Completions", ["steps", "tokens", "cut off", "no answer"], rows, " ".join([note, *said]))


def cells(part: Metrics, batch: int) -> Sequence[str]:
    """Length, share cut off and share without an answer."""
    return [number(part.mean("completion_length"), 1), share(part.mean("cut_off")), share(without_answer(part, batch))]


def without_answer(part: Metrics, batch: int) -> float | None:
    """Share of completions without a final answer that the verifier can read."""
    count = part.mean("verified_unparsable")
    return None if count is None else count / batch
