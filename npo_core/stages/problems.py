"""The problems of a run as all its stages see them.

Problems from data are read, rendered and checked once, by the first stage that needs them, and kept in the workspace
under a key of settings and tokenizer: later stages get the same prompts in seconds, whatever became of the files since.
"""

import hashlib
from typing import Any

import pyarrow as pa

from npo_core.config import ChainProblems, Problems
from npo_core.errors import DamagedError
from npo_core.problems import Problem, ProblemSet
from npo_core.problems.images import check_present
from npo_core.problems.kept import from_parquet, to_parquet
from npo_core.problems.load import BENCHMARK, load_problems, problem_set
from npo_core.problems.problem import ImageRef
from npo_core.stages.context import StageContext
from npo_core.stages.specs import Spec
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Snapshot, Store

FOLDER, RECORD = "problems", "problems.json"


def run_problems(spec: Spec, context: StageContext, snapshot: Snapshot) -> ProblemSet:
    """The problems of a stage that has some, rendered for the tokenizer of a snapshot."""
    settings = spec.problems
    if isinstance(settings, ChainProblems):
        return load_problems(settings)
    store = kept_folder(settings, context.workspace, snapshot.info["tokenizer"])
    record = store.read_json(RECORD, default=None)
    if record is None:
        from npo_core.models.load import load_processor

        folder = context.workspace.snapshot_folder(snapshot.id, weights=False)
        problems = load_problems(settings, spec.execution, load_processor(folder))
        keep(problems, store)
        return problems
    parts = {part: read(store, part) for part in record}
    check_present(problem for part in parts.values() for problem in part)
    return problem_set(settings, spec.execution, parts, record)


def examples(problems: ProblemSet) -> list[Problem]:
    """A few problems that lead to the same judges as all: the first one to train on, and one of each verifier."""
    parts = [problems.train, problems.held_out, *problems.benchmarks.values()]
    return [*problems.train[:1], *{problem.verifier: problem for part in parts for problem in part}.values()]


def problems_like(spec: Spec, few: list[Problem]) -> ProblemSet:
    """Problems with the judges of those that `few` are `examples` of, in a process that is not to read them all."""
    settings = spec.problems
    if isinstance(settings, ChainProblems):
        return load_problems(settings)
    return problem_set(settings, spec.execution, {"train": few, "held_out": []}, {})


def kept_folder(settings: Problems, workspace: Workspace, tokenizer: str) -> Store:
    """Where problems rendered for a tokenizer (by its fingerprint) are kept."""
    key = hashlib.sha256(f"{settings.model_dump_json()}{tokenizer}".encode()).hexdigest()[:16]
    return workspace.store.child(f"{FOLDER}/{key}")


def copy_problems(workspace: Workspace, copy: Workspace) -> None:
    """Take what a workspace keeps over to another."""
    for key in workspace.store.list(FOLDER):
        for name in sorted(
            workspace.store.list(f"{FOLDER}/{key}"), key=lambda name: name == RECORD
        ):  # which comes last
            rel = f"{FOLDER}/{key}/{name}"
            copy.store.write_bytes(rel, workspace.store.read_bytes(rel))


def kept_images(workspace: Workspace) -> dict[str, tuple[ImageRef, ...]]:
    """The images of a run's training prompts by id; of a run without images, nothing. Raises DamagedError."""
    stores = [workspace.store.child(f"{FOLDER}/{key}") for key in workspace.store.list(FOLDER)]
    asked = [problem for store in stores if store.exists(RECORD) for problem in read(store, "train")]
    return {problem.id: problem.images for problem in asked if problem.images}


def keep(problems: ProblemSet, store: Store) -> None:
    """Write the problems; their report comes last, and without it they are not there."""
    benchmarks = {f"{BENCHMARK}{name}": asked for name, asked in problems.benchmarks.items()}
    for part, asked in {"train": problems.train, "held_out": problems.held_out, **benchmarks}.items():
        store.write_bytes(f"{part}.parquet", to_parquet(asked))
    store.write_json(RECORD, problems.report)


def read(store: Store, part: str) -> list[Any]:
    """The problems of a part. Raises DamagedError."""
    try:
        return from_parquet(store.read_bytes(name := f"{part}.parquet"))
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(
            f"{store.uri}/{name} is damaged ({error}): delete its folder and start the same command again."
        ) from None
