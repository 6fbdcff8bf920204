"""Tables of held-out scores."""

from collections.abc import Mapping
from typing import Any

from npo_core.reporting.completions import hints, share
from npo_core.reporting.intervals import LABEL, of_score, shown, wilson
from npo_core.reporting.run_data import RunData
from npo_core.reporting.tables import NONE, Table, number

Record = Mapping[str, Any]  # what `npo_core.evaluation.passrate.evaluate` gives; older ones lack some figures


def evaluations_table(run: RunData) -> Table:
    """Held-out scores by step: pass rate, pass@k, and pass rate by difficulty."""
    levels = sorted({level for score in run.evaluations for level in score.get("by_difficulty", {})}, key=natural)
    k = max(map(most_samples, run.evaluations), default=1)
    header = [
        "step",
        "all updates",
        "all generated tokens",
        "pass rate",
        f"pass@{k}",
        *(f"difficulty {level}" for level in levels),
        "cut off",
        "no answer",
    ]
    steps = [point.step for point in run.points]
    rows = [
        [
            number(point.step) + (", after the rollback" if point.step == before else ""),
            number(point.updates_total),
            number(point.tokens_total),
            shown(point.pass_rate, point.interval),
            value(score, "pass_at_k", str(k)),
            *(value(score, "by_difficulty", level) for level in levels),
            share(cut_off(score)),
            share(no_answer(score)),
        ]
        for before, point, score in zip([None, *steps], run.points, run.evaluations, strict=False)
    ]
    notes = [f"{LABEL}. Answers that were cut off are wrong."]
    if run.spent.tokens:
        notes.append("Totals include abandoned branches, probes and guidance, as far as they were paid before.")
    if run.evaluations:
        newest = run.evaluations[-1]
        notes += hints(cut_off(newest), no_answer(newest), run.config.training.max_completion_tokens)
    return Table("Evaluation", header, rows, " ".join(notes))


def cut_off(score: Record) -> float | None:
    """Share of answers that did not end by themselves; None where nobody kept it."""
    return part_of(score, "unfinished")


def no_answer(score: Record) -> float | None:
    """Share of answers without a final answer that the verifier can read; None where nobody kept it."""
    return part_of(score, "unparsable")


def part_of(score: Record, name: str) -> float | None:
    """A count as share of all answers; None where it is not known."""
    asked = score.get("problems", 0) * score.get("samples", 0)
    return score[name] / asked if score.get(name) is not None and asked else None


def benchmarks_table(run: RunData) -> Table | None:
    """pass@1 by step on each further data set and their mean; None where there is none."""
    names = sorted({name for score in run.evaluations for name in score.get("benchmarks", {})})
    if not names:
        return None
    rows = [
        [number(score["step"]), *benchmark_cells(score["benchmarks"], names)]
        for score in run.evaluations
        if score.get("benchmarks")
    ]
    return Table("Benchmarks", ["step", *names, "mean"], rows, f"{LABEL}. The mean counts every data set alike.")


def benchmark_cells(scores: Mapping[str, Record], names: list[str]) -> list[str]:
    """Pass rates of the data sets and their mean."""
    rates = [scores[name]["pass_rate"] for name in names]
    cells = [pass_rate(scores[name]) for name in names]
    return [*cells, number(sum(rates) / len(rates), 3)]


def score_table(name: str, score: Record, limit: int | None = None) -> Table:
    """One model's score on the held-out problems `name`, with intervals, and what it took; `limit`: tokens allowed."""
    k = most_samples(score)
    rows = [[f"pass@1 (avg@{k})", pass_rate(score)]]
    rows += [[f"pass@{text}", value(score, "pass_at_k", text)] for text in score["pass_at_k"] if text != "1"]
    rows += [[f"pass@1, {level}", rate] for level, rate in graded(score)]
    counts = [("problems", "problems"), ("samples a problem", "samples"), ("generated tokens", "tokens")]
    counts += [("answers without a verdict", "unverified"), ("seconds", "seconds")]
    rows += [[words, number(score[count])] for words, count in counts if count in score]
    rows += [["answers cut off", share(cut_off(score))], ["answers without a final answer", share(no_answer(score))]]
    notes = [
        f"{LABEL}. pass@1 is the mean over all samples; pass@k is the unbiased estimate from them. Sampled at "
        "temperature 1; answers that were cut off are wrong.",
        *hints(cut_off(score), no_answer(score), limit),
    ]
    return Table(name, ["", "value"], rows, " ".join(notes))


def data_sets_table(score: Record) -> Table | None:
    """The score of one model on each further data set and their mean; None where there is none."""
    found = score.get("benchmarks", {})
    if not found:
        return None
    k = min(map(most_samples, found.values()))
    header = ["data set", "problems", f"pass@1 (avg@{k})", *([f"pass@{k}"] if k > 1 else []), "cut off"]
    rows = [
        [
            name,
            number(part["problems"]),
            pass_rate(part),
            *([value(part, "pass_at_k", str(k))] if k > 1 else []),
            share(cut_off(part)),
        ]
        for name, part in found.items()
    ]
    rows += [
        [f"{name}, {level}", NONE, rate, *[NONE] * (len(header) - 3)]
        for name, part in found.items()
        for level, rate in graded(part)
    ]
    mean = sum(part["pass_rate"] for part in found.values()) / len(found)
    rows.append(["mean of data sets", NONE, number(mean, 3), *[NONE] * (len(header) - 3)])
    return Table("Benchmarks", header, rows, f"{LABEL}.")


def most_samples(score: Record) -> int:
    """The largest k whose pass@k was estimated."""
    return max((int(k) for k in score.get("pass_at_k", {})), default=1)


def pass_rate(score: Record) -> str:
    """A pass rate with its interval."""
    return shown(score["pass_rate"], of_score(score))


def value(score: Record, name: str, key: str) -> str:
    """A figure of a score under a key, with its interval where what that needs was kept."""
    rate, error = (score.get(kind, {}).get(key) for kind in (name, f"{name}_error"))
    if error is None:
        return number(rate, 3)
    samples = score.get("samples", 1)
    if name == "pass_at_k":  # k samples are one try
        return shown(rate, wilson(rate, error, score.get("problems", 0), max(1, samples // int(key))))
    return shown(rate, wilson(rate, error, score.get("by_difficulty_problems", {}).get(key, 0), samples))


def graded(score: Record) -> list[tuple[str, str]]:
    """pass@1 of each difficulty, where there are several."""
    levels = score["by_difficulty"]
    return [(f"difficulty {at}", value(score, "by_difficulty", at)) for at in levels] if len(levels) > 1 else []


def natural(text: str) -> tuple[int, str]:
    """Numbers by value, then other names."""
    return (int(text), "") if text.isdigit() else (10**9, text)
