"""How a fork begins: which settings may change, and a workspace that shares the run before up to a step.

Nothing is written before everything was checked. `fork.json` comes first and claims the workspace, `config.json` comes
last and makes it a run: whatever was killed in between goes on when the same is asked again.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from npo_core.config import RunConfig, override, parse_config
from npo_core.config.methods import read_method
from npo_core.errors import ConfigError, DamagedError, DataError
from npo_core.guidance.cache import read_info
from npo_core.names import CONFIG_FILE, FORK_FILE, GRPO
from npo_core.recipes.run import FRESH, require_same_draws
from npo_core.recipes.runs import runs_folder
from npo_core.recipes.sharing import Path, share
from npo_core.reporting.records import Stage, read_stages, run_segments
from npo_core.stages.outputs import lost_snapshots
from npo_core.stages.workspace import Workspace, absolute, difference
from npo_core.timeline import Branch, Fork, Leg, Stretch, Tree, read_fork, workspace_lock

SHAPE = ("prompts_per_step", "group_size", "updates_per_batch", "micro_batch")  # of a batch that is trained on
WORKS = {"bootstrap": {"scout_steps", "ladder"}, "auto": {"control", "rescue"}}  # the others are for what a fork omits
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
BESIDE = {".lock", ".lock.json", "lock.json", ".scratch"}  # what a workspace has before anything is in it


@dataclass(frozen=True)
class Request:
    """What to fork, where, and what to change; `branch` None: the run's final one."""

    workspace: str
    step: int
    changes: Mapping[str, Any] = field(default_factory=dict)  # dotted field -> value
    branch: str | None = None

    @property
    def origin(self) -> str:
        """The URI of the run to fork, the same from any folder."""
        return absolute(self.workspace).rstrip("/")

    @property
    def plain_changes(self) -> dict[str, Any]:
        """The changes as JSON keeps them; `1e-4`, which YAML takes for text, as the number."""
        kept = json.loads(json.dumps(dict(self.changes)))
        return {name: float(v) if isinstance(v, str) and EXPONENT.fullmatch(v) else v for name, v in kept.items()}

    def default_workspace(self) -> str:
        """A folder below $NPO_RUNS that is the same for the same request: `<run>-fork-<step>-<6 hex digits>`."""
        content = json.dumps([self.origin, self.step, self.branch, self.plain_changes], sort_keys=True)
        digits = hashlib.sha256(content.encode()).hexdigest()[:6]
        return f"{runs_folder()}/{self.origin.rsplit('/', 1)[-1]}-fork-{self.step}-{digits}"


def fork_run(request: Request, uri: str | None = None) -> str:
    """Make the workspace of a fork, or find it made by the same request; its URI. Nothing is trained.

    Args:
        uri: of the new workspace; None: `Request.default_workspace`.

    Raises:
        ConfigError: the workspace holds something else, or a change contradicts what is shared.
        DataError: there is no run, no such branch, or no snapshot of the step.
        DamagedError, StorageError: what is to be shared is damaged, or a disk or S3 refuses.
    """
    target = Workspace(absolute(uri or request.default_workspace()).rstrip("/"))
    if made(request, target):
        return target.uri
    origin = Workspace(request.origin)
    config, path, record = plan_fork(request, origin)
    with workspace_lock(target.store, owner=f"npo fork of {origin.uri}"):
        if not made(request, target):
            record = read_fork(target.store) or record  # of a try that was killed: the run before may be longer now
            target.store.clean_leftovers()
            target.store.write_json(FORK_FILE, record.model_dump(mode="json"))
            share(origin, target, path, record, os.getcwd())
            target.store.write_json(CONFIG_FILE, config.model_dump(mode="json"))
    return target.uri


def made(request: Request, target: Workspace) -> bool:
    """Whether the same request made this workspace; False where it is free, or was begun by it.

    Raises:
        ConfigError: something else is there.
    """
    there = read_fork(target.store)
    if there is None:
        if target.uri == request.origin or set(target.store.list()) - BESIDE:
            raise ConfigError(f"workspace = {target.uri}: something else is there already; name one that is empty.")
        return False
    same = (there.workspace, there.step, there.changes) == (request.origin, request.step, request.plain_changes)
    if not same or request.branch not in (None, there.branch):
        raise ConfigError(
            f"workspace = {target.uri}: another fork is there ({there.in_words().rstrip('.')}); name one that is empty."
        )
    return target.store.exists(CONFIG_FILE)


def plan_fork(request: Request, origin: Workspace) -> tuple[RunConfig, Path, Fork]:
    """The configuration of a fork, what it shares and its record; nothing is written. Raises as `fork_run`."""
    old, stages = origin.config(), read_stages(origin)
    require_same_draws(origin)
    segments, name = run_segments(origin, stages), chosen_branch(request, origin)
    branches = origin.timeline.branches()
    stretches = Tree(branches, segments).stretches(name)
    states = snapshots_of(next(branch for branch in branches if branch.name == name), stretches)
    if request.step not in states:
        raise DataError(
            f"at = {request.step}: branch {name} of {origin.uri} has no snapshot of this step; choose one of "
            f"{', '.join(map(str, states)) or '(none yet)'}."
        )
    snapshot = states[request.step]
    if origin.timeline.snapshots.pruned(snapshot):
        raise DataError(
            f"at = {request.step}: this snapshot of {origin.uri} was pruned; choose a step that "
            f"`npo prune {origin.uri}` shows as whole."
        )
    config = changed_config(old, request.plain_changes, origin.uri)
    check_changes(old, config, request, "buffer" in origin.timeline.snapshots.get(snapshot).content)
    shared = [Stretch(s.segment, s.t0, min(s.t1, request.step)) for s in stretches if s.t0 < request.step]
    legs = [leg_of(origin, stages, stretch) for stretch in stretches if stretch.t1 > request.step]
    used = {s.segment.cache for s in shared} | {leg.cache for leg in legs}
    require_whole(origin, [id_ for step, id_ in states.items() if step <= request.step])
    caches = {cache for cache in used if cache is not None}
    path = Path(old, shared, {step: id_ for step, id_ in states.items() if step <= request.step}, caches)
    record = Fork(
        workspace=origin.uri,
        step=request.step,
        snapshot=snapshot,
        branch=name,
        last=shared[-1].segment.branch if shared else None,
        changes=request.plain_changes,
        legs=legs,
        guides={guide.id: guide.step for cache in path.caches for guide in read_info(origin.guidance(cache)).guides},
    )
    return config, path, record


def require_whole(origin: Workspace, snapshots: list[str]) -> None:
    """Raises DamagedError where a snapshot is missing or damaged, as far as a quick look tells."""
    for path, why in lost_snapshots(origin, snapshots):
        raise DamagedError(
            f"{origin.uri}/{path} {why}, so it cannot be shared: start that run again, which makes it anew, or fork at "
            "an earlier step."
        )


def chosen_branch(request: Request, origin: Workspace) -> str:
    """The branch whose path is shared. Raises DataError where there is none."""
    if request.branch is not None:
        return origin.timeline.branch(request.branch).name
    final = origin.timeline.final()
    if final is None:
        raise DataError(f"{origin.uri} has no branch yet, so there is no snapshot to fork: start the run first.")
    return final.name


def snapshots_of(branch: Branch, stretches: list[Stretch]) -> dict[int, str]:
    """The snapshots on a path: step -> id, rising."""
    found = {} if branch.parent is None else {branch.parent_step: branch.parent}
    for stretch in stretches:
        known = {stretch.segment.t0: stretch.segment.start, **stretch.segment.produced()}
        found |= {step: id_ for step, id_ in known.items() if stretch.t0 <= step <= stretch.t1}
    return dict(sorted(found.items()))


def leg_of(origin: Workspace, stages: list[Stage], stretch: Stretch) -> Leg:
    """How the run before was trained on a stretch of its path."""
    segment = stretch.segment
    spec = next(stage.spec for stage in stages if stage.name == "train" and stage.fingerprint == segment.id)
    guides = [] if segment.cache is None else [guide.id for guide in read_info(origin.guidance(segment.cache)).guides]
    return Leg(
        until=stretch.t1,
        cache=segment.cache,
        guides=guides,
        fresh=(spec["sampling_seed"] - spec["seed"]) // FRESH,
        watched=spec.get("control") is not None,
        rescue=spec.get("rescue") is not None,
    )


def changed_config(old: RunConfig, changes: dict[str, Any], uri: str) -> RunConfig:
    """The old configuration with dotted fields changed; a method fills what is still at its default.

    Raises:
        ConfigError: a field is unknown, out of bounds, or contradicts another; or the method is for another recipe.
    """
    values = old.model_dump(mode="json")
    if (method := changes.get("method")) is not None:
        recipe = read_method(str(method))[0]
        if recipe != GRPO:
            raise ConfigError(
                f"method = {method} is for the recipe {recipe}, and a fork only trains on: choose a method for {GRPO}, "
                "or start a run of its own with `npo run`."
            )
    else:
        values.pop("method", None)  # what it set is in the other fields
    config = parse_config(override(values, changes), f"{uri} with these changes")
    return config if "method" in changes else config.model_copy(update={"method": old.method})


def check_changes(old: RunConfig, new: RunConfig, request: Request, inside: bool) -> None:
    """Refuse settings that contradict what is shared, or that a fork would silently ignore.

    Args:
        inside: the snapshot lies inside a generation batch, of which it keeps the rest.

    Raises:
        ConfigError: names field, value and remedy.
    """
    for name in ("problems", "model"):
        if getattr(old, name) != getattr(new, name):
            what = difference(name, getattr(new, name), getattr(old, name))
            raise ConfigError(
                f"{what}: the snapshots of {request.origin} were trained from that base on those problems, which a "
                "fork shares; leave it out, or start a run of its own with `npo run`."
            )
    for name, of, to in idle(old, new):
        raise ConfigError(
            f"{difference(name, to, of)}: a fork only trains on, so this would change nothing; leave it out, or start "
            "a run of its own with `npo run`."
        )
    if new.training.steps <= request.step:
        raise ConfigError(
            f"training.steps = {new.training.steps} leaves nothing to train after step {request.step}: fork at an "
            "earlier step, or set training.steps to more."
        )
    shape = [name for name in SHAPE if getattr(old.training, name) != getattr(new.training, name)]
    if shape and (inside or request.step % new.training.updates_per_batch):
        name = f"training.{shape[0]}"
        raise ConfigError(
            f"{difference(name, getattr(new.training, shape[0]), getattr(old.training, shape[0]))}: the snapshot of "
            f"step {request.step} lies inside a generation batch; leave it out, or fork at a multiple of "
            "training.updates_per_batch."
        )


def idle(old: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any]]:
    """Fields that changed and that nothing in a fork reads, with both values."""
    pairs = [(f"mix.{name}", getattr(old.mix, name), getattr(new.mix, name)) for name in ("guide",)]
    for group, works in WORKS.items():
        before, after = getattr(old, group), getattr(new, group)
        names = [name for name in type(before).model_fields if name not in works]
        pairs += [(f"{group}.{name}", getattr(before, name), getattr(after, name)) for name in names]
    if not new.mix.online:
        pairs.append(("guidance", old.guidance, new.guidance))
    return [pair for pair in pairs if pair[1] != pair[2]]
