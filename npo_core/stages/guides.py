"""Who guides in stage `guide`: snapshots of the run, weights beyond them, or a model outside of it."""

import json
import platform
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from npo_core.config import ModelGuide, PretrainedModel
from npo_core.engines import Engine
from npo_core.errors import ConfigError
from npo_core.guidance.generate import GuideSource, Request
from npo_core.seeds import derive_seed
from npo_core.stages.context import StageContext
from npo_core.stages.engine import folder_engine, one_at_a_time, snapshot_engine
from npo_core.stages.specs import GuideSpec
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Snapshot

TAKEN_IN = "pretrained.json"  # in the stage's scratch: folder and digest of a model outside the run
MEASURED = 64  # prompts that the distance of guides is measured on


def guide_sources(
    spec: GuideSpec, context: StageContext, rollback: Snapshot, requests: Sequence[Request]
) -> tuple[list[GuideSource], int]:
    """Who guides, in the order they are asked, and the tokens that were generated to find the order.

    Raises:
        ConfigError: a model outside the run has another tokenizer than the run's.
    """
    if isinstance(spec.outside, ModelGuide):
        return [teacher(spec, spec.outside.path, context, rollback)], 0
    snapshots = [context.workspace.timeline.snapshots.get(id_) for id_ in spec.guides]
    if spec.horizons:
        early, late = snapshots
        return [beyond(spec, context, early, late, horizon) for horizon in sorted(spec.horizons)], 0
    sources = [GuideSource(s.id, s.step, partial(load_engine, spec, context, s.id)) for s in snapshots]
    return by_distance(spec, context, sources, requests) if spec.by_kl else (sources, 0)


def teacher(spec: GuideSpec, path: str, context: StageContext, rollback: Snapshot) -> GuideSource:
    """A model outside the run (a folder or hub id), as a guide of step 0."""
    from npo_core.models import identity

    folder, digest = taken_in(path, context)
    found, ours = identity.describe(folder)["tokenizer"], rollback.info["tokenizer"]
    if found != ours:
        raise ConfigError(
            f"mix.guide.path = {path} has another tokenizer ({found}) than the run's model ({ours}), so "
            "its token ids mean other words: give a model with the same tokenizer, or its completions as traces."
        )
    batch, bf16 = generation_rows(spec), spec.training.bf16
    there = partial(teacher_there, context.workspace.uri, spec.folder, path, digest)
    return GuideSource(
        f"model-{digest}", 0, lambda: folder_engine(spec, context, folder, there, batch=batch, bf16=bf16)
    )


def teacher_there(workspace: str, stage: str, path: str, digest: str) -> Path:
    """The folder of a model outside the run on the machine that asks, taken in where it is not there yet.

    Raises:
        ConfigError: what this machine finds has other weights.
    """
    run = Workspace(workspace)
    context = StageContext(run, run.scratch / stage, "cpu")
    with one_at_a_time(f"model-{digest}"):
        note = context.scratch / TAKEN_IN
        if note.exists() and (there := json.loads(note.read_text()))["digest"] == digest:
            return Path(there["folder"])
        folder, found = taken_in(path, context)
    if found == digest:
        return folder
    raise ConfigError(
        f"mix.guide.path = {path} has other weights on the machine {platform.node()} ({found}) than on the first "
        f"({digest}): give all machines of execution.nodes the same files."
    )


def taken_in(path: str, context: StageContext) -> tuple[Path, str]:
    """The folder of a model outside the run, and its weights' digest, which is noted for who comes after."""
    from npo_core.stages.base import pretrained

    note = context.scratch / TAKEN_IN
    note.unlink(missing_ok=True)  # it speaks of what is written over now
    folder = pretrained(PretrainedModel(kind="pretrained", path=path), context)
    digest = weights_digest(folder)
    note.write_text(json.dumps({"folder": str(folder), "digest": digest}))
    return folder, digest


def weights_digest(folder: Path) -> str:
    """What tells the weights of a model folder from others."""
    from npo_core.models import identity

    return identity.digest_of_files(sorted(folder.glob("*.safetensors")))


def beyond(spec: GuideSpec, context: StageContext, early: Snapshot, late: Snapshot, horizon: float) -> GuideSource:
    """Weights on the line from one snapshot to a later one, `horizon` of their distance further."""
    step = round(late.step + horizon * (late.step - early.step))
    name = f"{late.id}+{horizon:g}x{early.id}"
    return GuideSource(name, step, lambda: open_beyond(spec, context, early, late, horizon))


def open_beyond(spec: GuideSpec, context: StageContext, early: Snapshot, late: Snapshot, horizon: float) -> Engine:
    """The engine of extrapolated weights, which are in the stage's scratch."""
    there = partial(beyond_there, context.workspace.uri, spec.folder, early.id, late.id, horizon)
    attention, batch = late.info.get("attention", "auto"), generation_rows(spec)
    return folder_engine(spec, context, there(), there, attention=attention, batch=batch, bf16=spec.training.bf16)


def beyond_there(workspace: str, stage: str, early: str, late: str, horizon: float) -> Path:
    """The folder of extrapolated weights on the machine that asks, computed where it is not there yet."""
    run = Workspace(workspace)
    folder = run.scratch / stage / f"beyond-{horizon:g}"
    with one_at_a_time(f"{late}+{horizon:g}x{early}"):
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            write_beyond(run.snapshot_folder(early), run.snapshot_folder(late), horizon, unfinished)
            unfinished.rename(folder)
    return folder


def write_beyond(before: Path, after: Path, horizon: float, folder: Path) -> None:
    """A model folder with weights `horizon` of their distance beyond `after`, computed in float32."""
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True)
    for file in sorted(after.iterdir()):
        if file.is_file() and file.suffix not in (".safetensors", ".pt", ".parquet"):
            shutil.copy(file, folder / file.name)
    for file in sorted(after.glob("*.safetensors")):
        old, new = load_file(before / file.name), load_file(file)
        moved = {
            name: (now.float() + horizon * (now.float() - old[name].float())).to(now.dtype) for name, now in new.items()
        }
        save_file(moved, folder / file.name, metadata={"format": "pt"})


def by_distance(
    spec: GuideSpec, context: StageContext, sources: list[GuideSource], requests: Sequence[Request]
) -> tuple[list[GuideSource], int]:
    """Guides by KL(guide || policy) on completions of their own, the nearest first; and the tokens of these."""
    problems = [request.problem for request in requests[:MEASURED]]
    policy = load_engine(spec, context, spec.rollback)
    distances, tokens = [], 0
    for source in sources:
        guide = source.load()
        seed = derive_seed("distance", spec.seed, source.step)
        answers = guide.generate(problems, samples=1, max_tokens=spec.training.max_completion_tokens, seed=seed)
        written = [completion.token_ids for [completion] in answers]
        log_r = [engine.score(problems, written) for engine in (guide, policy)]
        distances.append(float(np.mean(np.concatenate(log_r[0]) - np.concatenate(log_r[1]), dtype=np.float64)))
        tokens += sum(map(len, written))
        print(f"KL of the guide of step {source.step} to the policy: {distances[-1]:.4f} nats a token")
    order = sorted(range(len(sources)), key=lambda i: (distances[i], -sources[i].step))
    return [sources[i] for i in order], tokens


def generation_rows(spec: GuideSpec) -> int:
    """Completions that are generated at once."""
    return spec.guidance.batch or spec.guidance.chunk_prompts * spec.guidance.samples_per_round


def load_engine(spec: GuideSpec, context: StageContext, snapshot: str) -> Engine:
    """The engine of a guide."""
    return snapshot_engine(spec, context, snapshot, batch=generation_rows(spec), bf16=spec.training.bf16)
