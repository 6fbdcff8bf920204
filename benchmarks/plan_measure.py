"""Does one piece of the work of `benchmarks.plan` in this process and prints what it took.

The most memory is looked for every few milliseconds: pages that are not a file's, for those of files can be dropped.
"""

import gc
import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path

from benchmarks.common import run_here
from benchmarks.flow_parts import PHASES
from npo_core.process import die_with_parent
from npo_core.recipes.run import Run
from npo_core.stages.forkserver import PRELOADED
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch
from npo_core.timeline.segments import read_steps

PAGE, LOOK_EVERY = os.sysconf("SC_PAGE_SIZE"), 0.003


def own_memory() -> int:
    """Bytes of this process's memory that are no file's."""
    resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    return (resident - shared) * PAGE


class Peak:
    """The most memory while it is watched, beyond what there was before."""

    def __enter__(self) -> "Peak":
        self.before = self.most = own_memory()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.over.wait(LOOK_EVERY):
            self.most = max(self.most, own_memory())

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()

    @property
    def bytes(self) -> int:
        return self.most - self.before


def main(what: str, workspace: str, base: str) -> None:
    """Run one of `WORK` on the base snapshot of a workspace and print what it took."""
    place = Workspace(workspace)
    run = Run(place.config(), place)
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    with Peak() as peak:
        result = WORK[what](run, base)
    print(json.dumps(result | {"memory": allocated() or peak.bytes}))


def half_right() -> None:
    """Have every other completion count as right: a model that solves nothing has no row that is trained on."""
    from npo_core.training.build import Rewards

    judge = Rewards.accuracy
    Rewards.accuracy = lambda *args, **rows: [float(i % 2) for i in range(len(judge(*args, **rows)))]


def train(run: Run, base: str) -> dict[str, float]:
    """A segment of all steps."""
    place = run.workspace
    half_right()
    place.timeline.add_branch(Branch(name="main", parent=base, parent_step=0, reason="measured", cache=None))
    result = run_here(run.train(branch="main", start=base, until=run.config.training.steps))
    steps = read_steps(place.store, place.timeline.segment(result.segment)).to_pylist()
    return {
        "disk": place.timeline.snapshots.get(result.end).bytes,
        "tokens": result.cost.tokens_generated,
        "seconds": min(sum(row[phase] or 0.0 for phase in PHASES) for row in steps),
    }


def evaluate(run: Run, base: str) -> dict[str, float]:
    return {"seconds": run_here(run.evaluate([base])).cost.seconds}


def score(run: Run, base: str) -> dict[str, float]:
    """Log-probabilities of a chunk of completions, as guide and probe stages ask for them."""
    from npo_core.engines.open import open_engine
    from npo_core.problems.load import load_problems
    from npo_core.stages.execute import prepare_device

    rows, length = run.config.guidance.chunk_prompts, run.config.training.max_completion_tokens
    folder = run.workspace.timeline.snapshots.folder(base, run.workspace.scratch / "snapshots")
    engine = open_engine(folder, run.config.engine, device=prepare_device(run.config.execution), batch=rows)
    engine.score(load_problems(run.config.problems).train[:rows], [list(range(2, 2 + length))] * rows)
    return {}


WORK = {"train": train, "evaluate": evaluate, "score": score}


def allocated() -> int:
    """Bytes that PyTorch had allocated on the GPU at most; 0 without one."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0


if __name__ == "__main__":
    started = time.perf_counter()
    die_with_parent(os.getppid())
    main(**json.loads(sys.argv[1]))
    print(f"plan_measure took {time.perf_counter() - started:.1f} s", file=sys.stderr)
    sys.stdout.flush()
    os._exit(0)  # what was measured is told; a library's thread once aborted the end of the interpreter
