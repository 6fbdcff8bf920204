"""Logged completions by group: which are asked for, and how one is described."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow.compute as pc

from npo_core.errors import DataError
from npo_core.problems.values import visible
from npo_core.reporting.records import Workspace, read_stages, run_segments
from npo_core.timeline import Segment, Store
from npo_core.timeline.segments import read_completions

FLAGS = ("failed", "rescued", "injected", "replayed", "mixed", "right")  # what groups are asked for by
SHOWN = 300  # characters of a text in an artifact


@dataclass(frozen=True)
class Group:
    """The logged completions of one prompt in one generation batch; `pass_rate` is on-policy, None where unknown."""

    branch: str
    step: int
    group: int
    prompt_id: str
    prompt: str
    pass_rate: float | None
    samples: list[dict[str, Any]]

    @property
    def sources(self) -> list[str]:
        """Where trajectories that were injected or replayed came from."""
        return sorted({row["source"] for row in self.samples if row["source"]})

    @property
    def flags(self) -> list[str]:
        """Those of `FLAGS` that hold; a rescued group had no right completion of its own and took a trajectory."""
        kinds = {row["kind"] for row in self.samples}
        failed, injected = self.pass_rate == 0, "injected" in kinds
        holds = {
            "failed": failed,
            "rescued": failed and injected,
            "injected": injected,
            "replayed": "replayed" in kinds,
            "mixed": self.pass_rate is not None and 0 < self.pass_rate < 1,
            "right": self.pass_rate == 1,
        }
        return [name for name in FLAGS if holds[name]]

    @property
    def told(self) -> str:
        """What became of it in a few words."""
        if "replayed" in self.flags:
            return "a stored success, trained on again"
        rate = "pass rate unknown" if self.pass_rate is None else f"pass rate {self.pass_rate:.2f}"
        word = "rescued" if "rescued" in self.flags else "injected" if "injected" in self.flags else ""
        return ", ".join(filter(None, [rate, f"{word} from {', '.join(self.sources)}" if word else ""]))

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        rows = [{name: none_for_nan(value) for name, value in row.items()} for row in self.samples]
        fields = ("branch", "step", "group", "prompt_id", "prompt", "pass_rate")
        return {name: getattr(self, name) for name in fields} | {"flags": self.flags, "samples": rows}


def none_for_nan(value: Any) -> Any:
    """None in place of NaN, which JSON does not know."""
    return None if isinstance(value, float) and math.isnan(value) else value


def read_groups(
    workspace: Workspace, *, step: int | None = None, prompt: str | None = None, flags: Sequence[str] = ()
) -> list[Group]:
    """The logged groups of a run by branch as opened, then step; those of abandoned branches are among them.

    Args:
        step: of this update alone. prompt: whose prompt id begins so. flags: that have all of these `FLAGS`.

    Raises:
        DataError: the run has logged no completions, or none that are asked for; says which steps have some.
    """
    order = {branch.name: branch.order for branch in workspace.timeline.branches()}
    segments = run_segments(workspace, read_stages(workspace))
    segments.sort(key=lambda segment: (order.get(segment.branch, 0), segment.t0))
    found = [group for segment in segments for group in segment_groups(workspace.store, segment)]
    if not found:
        raise DataError(
            f"{workspace.uri} has no logged completions: train with `--set training.log_completions=8`, which a run "
            "may begin with at any time."
        )
    chosen = [
        group
        for group in found
        if (step is None or group.step == step)
        and group.prompt_id.startswith(prompt or "")
        and set(flags) <= set(group.flags)
    ]
    if not chosen:
        steps = sorted({group.step for group in found})
        raise DataError(
            f"No logged group of {workspace.uri} is as asked: there are {len(found):,} of the steps {steps[0]} to "
            f"{steps[-1]}; ask for other steps, prompts or outcomes, or log more (training.log_completions)."
        )
    return chosen


def segment_groups(store: Store, segment: Segment, last: bool = False) -> Iterator[Group]:
    """The logged groups of a segment, by step; `last`: of its newest update that has some alone."""
    table = read_completions(store, segment)
    if last and len(table):
        table = table.filter(pc.equal(table["step"], pc.max(table["step"])))
    columns = ("sample", "completion", "tokens", "verdict", "reward", "advantage", "kind", "source")
    for (step, number), rows in groupby(table.to_pylist(), lambda row: (row["step"], row["group"])):
        samples = list(rows)
        first = samples[0]
        yield Group(
            segment.branch,
            step,
            number,
            first["prompt_id"],
            first["prompt"],
            none_for_nan(first["pass_rate"]),
            [{name: row[name] for name in columns} for row in samples],
        )


def figure(value: float | None, sign: str = "") -> str:
    """A reward or an advantage; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:{sign}.3g}"


def origin(row: dict[str, Any]) -> str:
    """Who wrote a completion: the policy, or which source it was injected or replayed from."""
    return "policy" if row["kind"] == "policy" else f"{row['kind']}: {row['source']}"


def samples_markdown(groups: Sequence[Group]) -> str:
    """Groups as Markdown; texts in fences, in which nothing is markup, and shortened."""
    parts = []
    for group in groups:
        lines = [f"prompt: {short(group.prompt)}"]
        for row in group.samples:
            figures = f"reward {figure(row['reward'])}, advantage {figure(row['advantage'], '+')}"
            mark = " " if row["kind"] == "policy" else ">"
            lines += [f"\n{mark} [{origin(row)}] {row['verdict']}, {figures}", short(row["completion"])]
        text = "\n".join(lines)
        fence = "`" * max(3, longest(text) + 1)
        parts.append(f"**Step {group.step}, prompt `{group.prompt_id}`**: {group.told}\n\n{fence}text\n{text}\n{fence}")
    return "\n\n".join(parts)


def longest(text: str) -> int:
    """The length of the longest run of backticks."""
    most = run = 0
    for letter in text:
        run = run + 1 if letter == "`" else 0
        most = max(most, run)
    return most


def short(text: str) -> str:
    """Text for an artifact, without control characters."""
    text = visible(text)
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} [...] {text[-SHOWN // 2 :]}"
