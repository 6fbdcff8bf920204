"""What `npo plan` says of a piece of work beside what it takes, for `benchmarks.plan` and `benchmarks.gpu_check`."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import ROOT, BenchRun, Check, markdown, say
from npo_core.config import RunConfig
from npo_core.planning import Machine, ModelSize, look, memory, model_size
from npo_core.planning.disk import snapshot_bytes
from npo_core.planning.seconds import seconds
from npo_core.planning.setting import Setting
from npo_core.recipes.counting import count
from npo_core.stages.forked import environment

LARGE_ENOUGH = 200e6  # bytes; below, the process's own small things count


def never_end(folder: Path, eos: int) -> None:
    """Give a saved model a direction that all tokens but the end share, so that no completion ends by itself."""
    import torch

    from npo_core.models.load import load_model

    model = load_model(folder)
    with torch.no_grad():
        words = model.get_input_embeddings().weight
        words[:, 0] = 1.0
        words[eos, 0] = -1.0
    model.save_pretrained(folder)


def said_of(config: RunConfig, size: ModelSize, machine: Machine) -> dict[str, float]:
    """What the plan says of training: memory and a snapshot in bytes, tokens, seconds of an update."""
    setting = Setting(config, size, machine.device)
    work = count(setting.config, "grpo")[0]
    time = seconds(work, setting, machine.speed, config.training.max_completion_tokens)
    return {
        "memory": memory.train(setting).peak - memory.LIBRARIES[machine.device],
        "disk": snapshot_bytes(setting)[1],
        "tokens": work.tokens(config.training.max_completion_tokens),
        "seconds": float("nan") if time is None else time / work.updates,
    }


def measured(what: str, config: RunConfig, folder: Path) -> dict[str, float]:
    """What a piece of work took, in a process of its own."""
    bench = BenchRun(config, folder)
    request = json.dumps({"what": what, "workspace": bench.workspace.uri, "base": bench.base})
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.plan_measure", request]
    done = subprocess.run(command, cwd=ROOT, env=environment(config.execution), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"benchmarks.plan_measure ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def compare_training(name: str, config: RunConfig, folder: Path) -> dict:
    """Training all of a configuration's steps in `folder`, said and measured, and the number of parameters."""
    device = config.execution.device
    size = model_size(config)
    said = said_of(config, size, look(config, measure=device == "cpu"))
    found = measured("train", config, folder)
    say(f"plan: {name}: {said['memory'] / 1e6:.0f} MB said, {found['memory'] / 1e6:.0f} MB measured")
    return {"case": name, "parameters": size.parameters, "said": said, "measured": found}


def compare_memory(name: str, need: memory.Memory, config: RunConfig, folder: Path) -> dict:
    """The memory of a stage, or of scoring, as `need` says and measured; it is done in `folder`."""
    said = need.peak - memory.LIBRARIES[config.execution.device]
    return {"case": name, "said": {"memory": said}, "measured": measured(need.stage, config, folder)}


FORMS = {"memory": (1e6, ".0f"), "disk": (1e6, ".1f"), "tokens": (1, ",.0f"), "seconds": (1, ".2f")}


def rows_of(found: Sequence[dict]) -> list[list[str]]:
    """A line a case: said, measured, ratio, for memory, disk, tokens and time."""
    return [
        [row["case"], f"{row['parameters'] / 1e6:.1f} M", *(cell for name in FORMS for cell in cells(row, name))]
        for row in found
    ]


def cells(row: dict, name: str) -> list[str]:
    (scale, form), said, measured = FORMS[name], row["said"][name], row["measured"][name]
    return [f"{said / scale:{form}} / {measured / scale:{form}}", f"{said / measured:.2f}"]


def as_text(found: Sequence[dict], others: Sequence[dict] = ()) -> str:
    head = ["layers x width", "parameters", "memory, MB: said / measured", "ratio", "snapshot, MB", "ratio"]
    training = markdown([*head, "tokens", "ratio", "s an update", "ratio"], rows_of(found))
    rows = [[row["case"], *cells(row, "memory")] for row in others]
    return (
        f"{training}\n\n{markdown(['other stages', 'memory, MB: said / measured', 'ratio'], rows)}"
        if rows
        else training
    )


def checks_of(found: Sequence[dict], others: Sequence[dict]) -> list[Check]:
    """How far off the estimates are, at most."""

    def worst(name: str, rows: Sequence[dict]) -> float:
        return max((abs(row["said"][name] / row["measured"][name] - 1) for row in rows), default=0.0)

    large, large_others = ([r for r in rows if r["measured"]["memory"] > LARGE_ENOUGH] for rows in (found, others))
    return [
        Check("plan, memory of training above 200 MB off by", worst("memory", large), 0.25),
        Check("plan, memory of other stages above 200 MB off by", worst("memory", large_others), 0.25),
        Check("plan, snapshot off by", worst("disk", found), 0.02),
        Check("plan, tokens off by", worst("tokens", found), 0.0),
        Check("plan, time of an update off by", worst("seconds", found)),
    ]
