"""Tables of held-out scores."""

from collections.abc import Mapping
from typing import Any

from npo_core.reporting.run_data import RunData
from npo_core.reporting.tables import NONE, Table, number, plus_minus

Record = Mapping[str, Any]  # what `npo_core.evaluation.passrate.evaluate` gives; older ones lack some errors
WIDTH = 1.96  # standard errors on either side of an interval of 95 %


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
    ]
    steps = [point.step for point in run.points]
    rows = [
        [
            number(point.step) + (", after the rollback" if point.step == before else ""),
            number(point.updates_total),
            number(point.tokens_total),
            plus_minus(point.pass_rate, point.standard_error),
            value(score, "pass_at_k", str(k)),
            *(value(score, "by_difficulty", level) for level in levels),
        ]
        for before, point, score in zip([None, *steps], run.points, run.evaluations, strict=False)
    ]
    note = "± is one standard error over problems." + (
        " Totals include abandoned branches, probes and guidance, as far as they were paid before."
        if run.spent.tokens
        else ""
    )
    return Table("Evaluation", header, rows, note)


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
    note = "± is one standard error over problems. The mean counts every data set alike."
    return Table("Benchmarks", ["step", *names, "mean"], rows, note)


def benchmark_cells(scores: Mapping[str, Record], names: list[str]) -> list[str]:
    rates = [scores[name]["pass_rate"] for name in names]
    cells = [plus_minus(scores[name]["pass_rate"], scores[name]["standard_error"]) for name in names]
    return [*cells, number(sum(rates) / len(rates), 3)]


def score_table(name: str, score: Record) -> Table:
    """One model's score on the held-out problems `name`, with intervals, and what it took."""
    k = most_samples(score)
    number_of = score["problems"]
    rows = [[f"pass@1 (avg@{k})", interval(score["pass_rate"], score["standard_error"], number_of)]]
    for text, rate in score["pass_at_k"].items():
        if text != "1":
            rows.append([f"pass@{text}", interval(rate, score["pass_at_k_error"][text], number_of)])
    rows += [[f"pass@1, {level}", rate] for level, rate in graded(score)]
    counts = [("problems", "problems"), ("samples a problem", "samples"), ("generated tokens", "tokens")]
    counts += [("answers cut off", "unfinished"), ("answers without a verdict", "unverified"), ("seconds", "seconds")]
    rows += [[words, number(score[count])] for words, count in counts if count in score]
    note = (
        f"± is {WIDTH} standard errors over problems. pass@1 is the mean over all samples; pass@k is the unbiased "
        "estimate from them. Sampled at temperature 1."
    )
    return Table(name, ["", "value"], rows, note)


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
            interval(part["pass_rate"], part["standard_error"], part["problems"]),
            *(
                [interval(part["pass_at_k"][str(k)], part["pass_at_k_error"][str(k)], part["problems"])]
                if k > 1
                else []
            ),
            number(part["unfinished"]),
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
    return Table("Benchmarks", header, rows)


def most_samples(score: Record) -> int:
    """The largest k whose pass@k was estimated."""
    return max((int(k) for k in score.get("pass_at_k", {})), default=1)


def value(score: Record, name: str, key: str) -> str:
    """A figure of a score under a key, with its standard error where that was kept."""
    rate, error = (score.get(kind, {}).get(key) for kind in (name, f"{name}_error"))
    return number(rate, 3) if error is None else plus_minus(rate, error)


def graded(score: Record) -> list[tuple[str, str]]:
    """pass@1 of each difficulty, where there are several."""
    rates, errors = score["by_difficulty"], score["by_difficulty_error"]
    return [(f"difficulty {at}", interval(r, errors[at])) for at, r in rates.items()] if len(rates) > 1 else []


def interval(rate: float, error: float, problems: int = 0) -> str:
    """A rate with 95 %; where all of `problems` were alike, the bound of Clopper and Pearson, which needs no spread."""
    if error > 0 or problems < 1 or rate not in (0.0, 1.0):
        return plus_minus(rate, WIDTH * error)
    bound = 1 - 0.025 ** (1 / problems)
    return f"{rate:.3f} (at most {bound:.3f})" if rate == 0 else f"{rate:.3f} (at least {1 - bound:.3f})"


def natural(text: str) -> tuple[int, str]:
    """Numbers by value, then other names."""
    return (int(text), "") if text.isdigit() else (10**9, text)
