"""Measures an update of NPOTrainer against one of TRL's own trainer: seconds, CPU seconds and memory.

    python -m benchmarks.steps [--cases demo pictures] [--rounds 6] [--steps 25] [--whole] [--quick] [--json]

Blocks of updates in turn, TRL's GRPOTrainer and NPOTrainer, the order reversed every round, each in a process of its
own with one thread. Both build their trainer anew from the same folder with the same arguments and seed; no block
saves, all log every update. An update lasts from one `on_step_begin` to the next: rollout, verification, update and
logging. A round's ratio is one of block medians. CPU time beside wall time tells a busy machine from a slow step; on
one that does nothing else they are the same, so the targets are held against CPU time. Memory is the most that a block
takes beyond what its process had before.

`--whole` adds the demo over all its updates, as the full run of all measurements does: three to four minutes.
"""

import os
import pickle
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.common import Check, demo_config, finish, in_words, markdown, parser, say, settle, spread
from benchmarks.steps_cases import NPO, TRL, Case, demo_cases, long_prompts, one_long, pictures

KINDS = (TRL, NPO)
CASES = ("demo", "prompts", "pictures", "long")


@dataclass(frozen=True)
class Block:
    """Updates of one trainer. `wall` and `cpu`: seconds of each after the warm-up."""

    wall: list[float]
    cpu: list[float]
    injected: float  # groups, over all updates
    memory: float  # MB

    def figure(self, case: Case, clock: str) -> float:
        values = getattr(self, clock)
        return sum(values) / len(values) if case.whole else statistics.median(values)


def run_block(kind: str, case: Case, output: Path) -> Block:
    """Train a block and time its updates."""
    import torch
    from transformers import TrainerCallback

    marks: list[tuple[float, float]] = []
    injected: list[float] = []

    def mark() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        marks.append((time.perf_counter(), time.process_time()))

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            if case.phase == "step":
                mark()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
            injected.append(logs.get("groups/injected", 0.0))

    trainer = case.make(kind, output)
    trainer.args.max_steps = case.steps
    trainer.add_callback(Clock)
    if case.phase == "generate":
        generate = trainer._generate_single_turn

        def timed(*args: Any, **kwargs: Any) -> Any:
            mark()
            result = generate(*args, **kwargs)
            mark()
            return result

        trainer._generate_single_turn = timed
    forget_peak()
    before = memory("VmRSS")
    trainer.train()
    if case.phase == "step":
        mark()
    begun, ended = (marks[:-1], marks[1:]) if case.phase == "step" else (marks[::2], marks[1::2])
    wall, cpu = ([b[i] - a[i] for a, b in zip(begun, ended, strict=True)][case.warm_up :] for i in (0, 1))
    if kind == NPO and case.injects and not sum(injected):
        raise RuntimeError("a guided block injected nothing, so it does not measure injection")
    return Block(wall, cpu, sum(injected), memory("VmHWM") - before)


def forget_peak() -> None:
    """Have the kernel count the most memory from here on."""
    Path("/proc/self/clear_refs").write_text("5")


def memory(field: str) -> float:
    """MB of this process: VmRSS now, VmHWM the most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def in_child(call: Callable[[], Any]) -> Any:
    """What a call returns in a process of its own, forked from this one."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read)
            with os.fdopen(write, "wb") as pipe:
                pickle.dump(call(), pipe)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read()
    if os.waitpid(child, 0)[1]:
        sys.exit("steps: a block failed")
    return pickle.loads(told)


def compare(case: Case, folder: Path) -> dict[str, list[Block]]:
    """Blocks of both kinds, in turn, the order reversed every round."""
    blocks: dict[str, list[Block]] = {kind: [] for kind in KINDS}
    for number in range(case.rounds):
        for kind in KINDS if number % 2 == 0 else reversed(KINDS):
            block = in_child(lambda kind=kind: run_block(kind, case, folder / "trainer"))
            blocks[kind].append(block)
            took = ", ".join(f"{1000 * block.figure(case, clock):.0f} ms {clock}" for clock in ("wall", "cpu"))
            say(f"steps: {case.name}: round {number + 1}/{case.rounds}  {kind}  {took}, {block.memory:.0f} MB")
    return blocks


def ratios(case: Case, blocks: dict[str, list[Block]], clock: str) -> dict[str, float]:
    """NPOTrainer's to TRL's in the same round: least, median, most."""
    pairs = zip(blocks[NPO], blocks[TRL], strict=True)
    return spread([npo.figure(case, clock) / trl.figure(case, clock) for npo, trl in pairs])


def summary(case: Case, blocks: dict[str, list[Block]]) -> dict[str, Any]:
    """All figures of a case."""
    return {
        "ms": {kind: spread([1000 * block.figure(case, "cpu") for block in blocks[kind]]) for kind in KINDS},
        "cpu": ratios(case, blocks, "cpu"),
        "wall": ratios(case, blocks, "wall"),
        "memory": {kind: spread([block.memory for block in blocks[kind]]) for kind in KINDS},
    }


def as_text(figures: dict[str, dict]) -> str:
    rows = [
        [
            name,
            *(in_words(found["ms"][kind], digits=0) for kind in KINDS),
            in_words(found["cpu"]),
            in_words(found["wall"]),
            *(f"{found['memory'][kind]['max']:.0f}" for kind in KINDS),
        ]
        for name, found in figures.items()
    ]
    head = ["case", "TRL, CPU ms", "NPO, CPU ms", "CPU time to TRL's", "wall time to TRL's", "TRL, MB", "NPO, MB"]
    return "Medians (least to most) over rounds.\n\n" + markdown(head, rows)


def prepare(options: Any, folder: Path) -> list[Case]:
    """The cases that are asked for, their models made."""
    found: list[Case] = []
    if "demo" in options.cases:
        config = demo_config(options.quick)
        found += demo_cases(config, folder, options.steps, options.rounds, options.whole)
    made = {"prompts": long_prompts, "pictures": pictures, "long": one_long}
    found += [make(folder / name, options.quick) for name, make in made.items() if name in options.cases]
    return found if options.rounds is None else [replace(case, rounds=options.rounds) for case in found]


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    options.add_argument("--rounds", type=int)
    options.add_argument("--steps", type=int, help="updates of a block of the demo")
    options.add_argument("--whole", action="store_true", help="the demo over all its updates, too")
    options = options.parse_args()
    if options.quick:
        options.rounds, options.steps = options.rounds or 2, options.steps or 6
    settle(demo_config(options.quick))
    figures, checks = {}, []
    with tempfile.TemporaryDirectory(prefix="npo-steps-") as folder:
        for case in prepare(options, Path(folder)):
            found = figures[case.name] = summary(case, compare(case, Path(folder)))
            checks.append(Check(f"{case.name}: NPO / TRL, CPU time", found["cpu"]["median"], case.target))
            memory_ratio = found["memory"][NPO]["max"] / found["memory"][TRL]["max"]
            checks.append(Check(f"{case.name}: NPO / TRL, memory", memory_ratio, 1.0))
    return finish(figures, checks, as_text(figures), options)


if __name__ == "__main__":
    sys.exit(main())
