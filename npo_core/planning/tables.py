"""A plan as tables and sentences, for the terminal and the artifact alike."""

from collections.abc import Mapping
from typing import Any

from npo_core.planning.needs import in_gib
from npo_core.reporting.tables import NONE, Table, duration, number

STAGES = ("train", "guide", "probe", "evaluate")


def plan_tables(plan: Mapping[str, Any]) -> list[Table]:
    """Needs beside limits, memory by part, and what each stage does; of the dictionary of a `Plan`."""
    return [needs_table(plan), parts_table(plan), stages_table(plan)] if plan["needs"] else []


def needs_table(plan: Mapping[str, Any]) -> Table:
    """Memory and disk: needed, there, verdict."""
    words = {"host": "memory of the machine", "disk": "disk of the workspace"}
    rows = [
        [
            words.get(need["what"], f"memory of {need['what']}"),
            need["phase"] or NONE,
            in_gib(need["total"]),
            NONE if need["limit"] is None else in_gib(need["limit"]),
            need["verdict"],
        ]
        for need in plan["needs"]
    ]
    model, machine = plan["model"], plan["machine"]
    device = machine["name"] if machine["gpus"] < 2 else f"{machine['gpus']} {machine['name']}"
    title = f"{plan['flow']} with {model['path']}, {model['parameters'] / 1e6:,.1f} M parameters, on {device}"
    header = ["at its largest", "when", "needs", "there is", "verdict"]
    return Table(title, header, rows, words=("when", "verdict"))


def parts_table(plan: Mapping[str, Any]) -> Table:
    """Memory of each stage's process at its largest, and the disk, by part."""
    needs = {need["what"]: need["parts"] for need in plan["needs"] if need["what"] in STAGES}
    names = list(dict.fromkeys(name for parts in needs.values() for name in parts))
    rows = [[name, *(in_gib(parts[name]) if name in parts else NONE for parts in needs.values())] for name in names]
    disk = next(need["parts"] for need in plan["needs"] if need["what"] == "disk")
    note = "Disk: " + ", ".join(f"{name} {in_gib(size)}" for name, size in disk.items()) + "."
    return Table("Memory of a process by part", ["part", *needs], rows, note)


def stages_table(plan: Mapping[str, Any]) -> Table:
    """Updates, completions, tokens and time of each stage."""
    rows = [
        [
            stage["label"],
            number(stage["updates"] or None),
            number(stage["completions"]),
            number(stage["tokens"]),
            duration(stage["seconds"]),
        ]
        for stage in plan["stages"]
    ]
    times = [stage["seconds"] for stage in plan["stages"]]
    known = sum(seconds for seconds in times if seconds is not None)
    gpus = plan["machine"]["gpus"]
    each = f" ({gpus * known / 3600:,.0f} GPU hours)" if gpus else ""
    note = f"Together {duration(known)}{each}" + (", where it is known." if None in times else ".") if known else ""
    return Table("Stages, at most", ["stage", "updates", "completions", "generated tokens", "time"], rows, note)


def conclusion(plan: Mapping[str, Any]) -> str:
    """Whether the run fits, in a sentence."""
    verdicts = {need["verdict"] for need in plan["needs"]}
    if "too much" in verdicts:
        return "It does not fit, and a run is refused."
    if "close" in verdicts:
        return "It may not fit: only an estimate that is too high, or short prompts, would help. A run is not refused."
    return "What is known fits." if "unknown" in verdicts or not verdicts else "It fits."
