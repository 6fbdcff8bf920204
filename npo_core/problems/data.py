"""Problems from data: rows are read, split, rendered, measured, and checked before anything is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from npo_core.config import AskedProblems, DataProblems, Execution
from npo_core.config.verifier import FormatVerifier, leaves
from npo_core.errors import ConfigError, DataError
from npo_core.problems import draw
from npo_core.problems.faults import SHOWN, Faults, Unusable, named
from npo_core.problems.problem import ImageRef, Problem, problem_id
from npo_core.problems.references import check_references, check_scored
from npo_core.problems.render import Renderer
from npo_core.problems.rows import Row, read_rows, split_off
from npo_core.problems.sources import open_source
from npo_core.problems.tokens import token_lengths


@dataclass(frozen=True)
class Part:
    """The rows that are to become training or held-out problems."""

    source: str
    rows: list[Row]


@dataclass(frozen=True)
class Prepared:
    """The problems of a part, the rows that they were, in the same order, and the part's report."""

    problems: list[Problem]
    rows: list[Row]
    report: dict[str, Any]


def load_data(
    settings: AskedProblems, processor: Any, held_out_only: bool = False, execution: Execution | None = None
) -> dict[str, tuple[list[Problem], dict[str, Any]]]:
    """Problems and report of each part: `train`, `held_out`, and `benchmarks.NAME` for each benchmark.

    `processor` (a tokenizer, where the model takes text alone) renders and measures prompts; None only where neither
    is asked.

    Raises:
        DataError: a source cannot be read, a row cannot be used, or nothing is left; names source and rows.
        ConfigError: the tokenizer does not fit the settings.
    """
    if processor is None and (settings.chat != "never" or settings.max_prompt_tokens is not None):
        raise ConfigError(
            "Rendering and measuring prompts needs the model's tokenizer or processor: give it, or set problems.chat = "
            "never and no problems.max_prompt_tokens."
        )
    render = Renderer(settings, processor)
    check_tags(settings, processor)
    parts = read_parts(settings, held_out_only)
    check_references(parts, settings, execution or Execution())
    found = {name: part_problems(part, settings, render) for name, part in parts.items()}
    check_scored(found["held_out"].problems, settings, execution or Execution())
    if "train" in found:
        check_apart(found)
    return {name: (part.problems, part.report) for name, part in found.items()}


def check_tags(settings: AskedProblems, processor: Any) -> None:
    """Raises ConfigError where a format asks for special tokens, which are not in the text that verifiers see."""
    special = getattr(getattr(processor, "tokenizer", processor), "all_special_tokens", [])
    for name in ("", *settings.verifiers):
        for leaf in leaves(settings.verifier_named(name)):
            if isinstance(leaf, FormatVerifier) and (lost := [token for token in special if token in leaf.pattern]):
                raise ConfigError(
                    f"A format's pattern asks for {', '.join(lost)}, special tokens of this tokenizer, which are not "
                    "in the text that verifiers see, so that no completion would have it: leave the format out of "
                    "problems.verifier, or give it a pattern without them."
                )


def check_apart(found: dict[str, Prepared]) -> None:
    """Raises DataError where a question of training is also a held-out one, whatever its answer; names the rows."""
    train = found["train"]
    trained = {row.question: row.name for row in train.rows}
    for part in (found[name] for name in found if name != "train"):
        if shared := [f"{trained[row.question]} as {row.name}" for row in part.rows if row.question in trained]:
            raise DataError(
                f"{len(shared)} problems are in both {train.report['source']} and {part.report['source']} "
                f"({named(shared, len(shared))}; answers and numbers of blanks aside): remove them from one, or the "
                "evaluation measures memory."
            )


def read_parts(settings: AskedProblems, held_out_only: bool) -> dict[str, Part]:
    """The rows of all parts, each from its source; held-out ones may be split off from those of training."""
    if not isinstance(settings, DataProblems):
        tables = draw.draw(settings, held_out_only)
        return {name: Part(table.name, read_rows(table, draw.SOURCE, settings)) for name, table in tables.items()}
    parts, apart = {}, settings.held_out is not None
    for name, source in settings.sources.items():
        if name == "train" and held_out_only and apart:
            continue
        table = open_source(source)
        parts[name] = Part(table.name, read_rows(table, source, settings))
    if apart or settings.held_out_rows is None:
        return parts
    return split_rows(parts.pop("train"), settings.held_out_rows) | parts


def split_rows(train: Part, held_out: int) -> dict[str, Part]:
    """The rows of training, and so many that are split off."""
    if held_out >= len(train.rows):
        raise DataError(
            f"problems.held_out_rows = {held_out} leaves no training problem of the {len(train.rows)} "
            f"rows of {train.source}: split off fewer."
        )
    marks = list(split_off(train.rows, held_out))
    parts = {
        "train": [row for row, chosen in zip(train.rows, marks, strict=True) if not chosen],
        "held_out": [row for row, chosen in zip(train.rows, marks, strict=True) if chosen],
    }
    return {
        "train": Part(train.source, parts["train"]),
        "held_out": Part(f"{train.source} (split off)", parts["held_out"]),
    }


def part_problems(part: Part, settings: AskedProblems, render: Renderer) -> Prepared:
    """The problems of a part: long prompts dropped or refused."""
    problems = rendered(part, render)
    lengths = prompt_lengths(problems, render.processor) if render.processor else []
    limit = settings.max_prompt_tokens
    long = {i for i, length in enumerate(lengths) if limit is not None and length > limit}
    why = f"the prompt has more than problems.max_prompt_tokens = {limit} tokens"
    if settings.on_long == "error":
        faults = Faults(part.source)
        for index in sorted(long):
            faults.add(why, part.rows[index].name)
        faults.check()
    kept = [i for i in range(len(problems)) if i not in long]
    if not kept:
        raise DataError(f"{part.source}: no problem is left, {why} in every row: allow more.")
    dropped = {"why": why, "count": len(long), "rows": [part.rows[i].name for i in sorted(long)[:SHOWN]]}
    tokens = [lengths[i] for i in kept] if lengths else []
    rows, problems = [part.rows[i] for i in kept], [problems[i] for i in kept]
    report = part_report(part.source, len(part.rows), problems, [dropped] if long else [], tokens)
    return Prepared(problems, rows, report | {"chat": render.templated, "special": special(rows, render)})


def special(rows: Sequence[Row], render: Renderer) -> dict[str, Any] | None:
    """Special tokens that are written out in the text of rows: {count, rows: the first, tokens}; None: in none."""
    found = {row.name: tokens for row in rows if (tokens := render.special_tokens(row.messages))}
    if not found:
        return None
    return {"count": len(found), "rows": [*found][:SHOWN], "tokens": sorted(set().union(*found.values()))}


def part_report(
    source: str, rows: int, kept: Sequence[Problem], dropped: list[dict[str, Any]], tokens: Sequence[int]
) -> dict[str, Any]:
    """Counts of a part.

    Returns:
        source; rows; problems; images; dropped: a list of {why, count, rows: the first}; prompt_tokens: {min, median,
        max} of what is kept, None without a tokenizer. Of problems from data also chat: whether a template rendered
        them; special: see `special`.
    """
    return {
        "source": source,
        "rows": rows,
        "problems": len(kept),
        "images": sum(len(problem.images) for problem in kept),
        "dropped": dropped,
        "prompt_tokens": {"min": min(tokens), "median": int(median(tokens)), "max": max(tokens)} if tokens else None,
    }


def rendered(part: Part, render: Renderer) -> list[Problem]:
    """The problem of every row. Raises DataError naming rows that the template refuses."""
    faults, problems = Faults(part.source), []
    for row in part.rows:
        try:
            prompt = render(row.messages, len(row.images))
            image_tokens(row.images, render.processor)
        except Unusable as error:
            faults.add(str(error), row.name)
            continue
        id_ = problem_id(prompt, row.answer, row.images)
        problems.append(Problem(id_, prompt, row.answer, row.difficulty, row.others, row.images, row.verifier))
    faults.check()
    return problems


def prompt_lengths(problems: Sequence[Problem], processor: Any) -> list[int]:
    """Tokens of each prompt, special ones and those of its images included."""
    text = token_lengths([p.prompt for p in problems], getattr(processor, "tokenizer", processor))
    return [tokens + image_tokens(p.images, processor) for tokens, p in zip(text, problems, strict=True)]


def image_tokens(images: Sequence[ImageRef], processor: Any) -> int:
    """Tokens that images take beyond their places in the text, where the processor tells.

    Raises:
        Unusable: an image has a shape that the processor does not take.
    """
    if not images or not hasattr(processor, "_get_num_multimodal_tokens"):
        return 0
    try:
        counted = processor._get_num_multimodal_tokens(image_sizes=[(image.height, image.width) for image in images])
    except ValueError as error:
        raise Unusable(f"the model's processor refuses an image ({error})") from None
    return sum(counted.num_image_tokens) - len(images)


def without_template(settings: AskedProblems) -> AskedProblems:
    """The same problems as text, for a look at them where there is no tokenizer."""
    return settings.model_copy(update={"chat": "never", "max_prompt_tokens": None})
