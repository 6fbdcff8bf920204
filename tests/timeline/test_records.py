"""Records and the tree they make."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from npo_core.errors import DamagedError, DataError, NPOError
from npo_core.timeline import Branch, Segment, Store, Timeline, opened

BASE, GUIDE, CACHE = "3f2a9c0000000000", "8c1d220000000000", "c41f770000000000"


@pytest.fixture
def timeline(store: Store) -> Timeline:
    return Timeline(store)


def segment(branch: str, start: str, t0: int, t1: int, end: str, **more: object) -> Segment:
    fields = {"snapshots": {t1: end}, "parts": [t1], **more}
    return Segment(id=f"{branch}-{t0}-{t1}", branch=branch, start=start, end=end, t0=t0, t1=t1, **fields)


def bootstrapped(timeline: Timeline) -> Timeline:
    """A scout, a guided replay of it, its continuation, and a branch that leaves the scout in the middle."""
    timeline.add_branch(Branch(name="scout", parent=BASE, parent_step=0, reason="scout"))
    timeline.add_segment(segment("scout", BASE, 0, 60, GUIDE, snapshots={40: "4040404040404040", 60: GUIDE}))
    timeline.add_branch(Branch(name="replay", parent=BASE, parent_step=0, reason="replay", guide=[GUIDE], cache=CACHE))
    timeline.add_segment(segment("replay", BASE, 0, 60, "5566000000000000", cache=CACHE))
    timeline.add_segment(segment("replay", "5566000000000000", 60, 200, "77aa010000000000"))
    timeline.add_branch(Branch(name="late", parent="4040404040404040", parent_step=40, reason="from the middle"))
    return timeline


def test_records_come_back(timeline: Timeline) -> None:
    bootstrapped(timeline)
    assert [branch.name for branch in timeline.branches()] == ["late", "replay", "scout"]
    assert timeline.branch("replay").guide == [GUIDE]
    assert [seg.id for seg in timeline.segments()] == ["replay-0-60", "replay-60-200", "scout-0-60"]
    assert timeline.segment("scout-0-60").snapshots == {40: "4040404040404040", 60: GUIDE}


def test_a_record_is_read_once(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many questions are asked; what another process adds is found, since folders are listed each time."""
    bootstrapped(Timeline(local_store))
    asked: list[str] = []
    read, exists = Store.read_json, Store.exists
    monkeypatch.setattr(
        Store, "read_json", lambda self, rel, **default: asked.append(rel) or read(self, rel, **default)
    )
    monkeypatch.setattr(Store, "exists", lambda self, rel: asked.append(rel) or exists(self, rel))
    timeline = Timeline(local_store)
    timeline.states("replay"), timeline.draw()
    assert len(asked) == 3 + 2 * 3  # branches; segments, seen and read
    asked.clear()
    timeline.states("scout"), timeline.tree(), timeline.final()
    assert not asked
    Timeline(local_store).add_branch(Branch(name="more", parent=GUIDE, parent_step=60, reason="elsewhere"))
    assert [branch.name for branch in timeline.branches()] == ["late", "more", "replay", "scout"]


def test_draw(timeline: Timeline) -> None:
    assert timeline.draw() == "no branches yet"
    assert bootstrapped(timeline).draw().splitlines() == [
        "base 3f2a9c…  step 0",
        "├── replay    0 → 60    guided by 8c1d22…  cache c41f77…  556600…",
        "│   └──       60 → 200  GRPO                              77aa01… (tip)",
        "└── scout     0 → 60    GRPO                              8c1d22… (tip)",
        "    └── late  40 →      nothing trained yet               (tip)",
    ]


def test_the_way_to_a_tip(timeline: Timeline) -> None:
    bootstrapped(timeline)
    timeline.add_segment(segment("late", "4040404040404040", 40, 50, "5050505050505050"))
    assert [seg.id for seg in timeline.path("replay")] == ["replay-0-60", "replay-60-200"]
    assert [(s.segment.id, s.t0, s.t1) for s in timeline.stretches("late")] == [
        ("scout-0-60", 0, 40),
        ("late-40-50", 40, 50),
    ]
    with pytest.raises(DataError, match="no branch 'lost' in .*late, replay, scout"):
        timeline.path("lost")


def test_tree_without_a_named_parent_starts_at_its_first_segment(timeline: Timeline) -> None:
    timeline.add_branch(Branch(name="main", parent=None, parent_step=0, reason="start"))
    assert [(root.snapshot, root.step) for root in timeline.tree()] == [(None, 0)]
    timeline.add_segment(segment("main", BASE, 0, 10, "1010101010101010"))
    (root,) = timeline.tree()
    assert (root.snapshot, root.children[0].branch.name, root.children[0].is_tip) == (BASE, "main", True)


def test_an_exact_replay_makes_the_same_snapshots(timeline: Timeline) -> None:
    for name in ("scout", "proof"):
        timeline.add_branch(Branch(name=name, parent=BASE, parent_step=0, reason=name))
        timeline.add_segment(segment(name, BASE, 0, 60, GUIDE))
    timeline.add_branch(Branch(name="on", parent=GUIDE, parent_step=60, reason="on"))
    timeline.add_segment(segment("on", GUIDE, 60, 70, "7070707070707070"))
    assert [seg.id for seg in timeline.path("on")] == ["proof-0-60", "on-60-70"]
    assert timeline.draw().count("on") == 1


def test_adding_again_is_fine_and_changing_is_not(timeline: Timeline) -> None:
    bootstrapped(timeline)
    scout = timeline.branch("scout")
    assert timeline.add_branch(scout) == scout
    with pytest.raises(NPOError, match="branch 'scout' exists with other content .reason: 'scout' is recorded"):
        timeline.add_branch(scout.model_copy(update={"reason": "x"}))
    done = timeline.segment("scout-0-60")
    assert timeline.add_segment(done.model_copy(update={"cost": {"seconds": 9.0}})) == done
    with pytest.raises(NPOError, match="segment 'scout-0-60' exists with other content .end"):
        timeline.add_segment(segment("scout", BASE, 0, 60, "eeee"))


def test_branches_are_numbered_as_they_are_opened(timeline: Timeline) -> None:
    assert timeline.final() is None
    bootstrapped(timeline)
    assert [(b.name, b.order) for b in opened(timeline.branches())] == [("scout", 0), ("replay", 1), ("late", 2)]
    assert timeline.final().name == "late"
    again = timeline.branch("scout").model_copy(update={"order": 9})
    assert timeline.add_branch(again).order == 0  # what is recorded counts


def test_records_without_order_put_a_scout_before_its_replay(timeline: Timeline) -> None:
    for name in ("replay", "scout"):
        record = {"name": name, "parent": BASE, "parent_step": 0, "reason": name}
        timeline.store.write_json(f"branches/{name}.json", record)
    timeline.add_branch(Branch(name="late", parent=BASE, parent_step=0, reason="late"))
    assert [branch.name for branch in opened(timeline.branches())] == ["scout", "replay", "late"]


def test_the_snapshots_on_the_way_to_a_tip(timeline: Timeline) -> None:
    bootstrapped(timeline)
    timeline.add_segment(segment("late", "4040404040404040", 40, 50, "5050505050505050"))
    assert timeline.states("late") == {0: BASE, 40: "4040404040404040", 50: "5050505050505050"}
    assert timeline.states("scout") == {0: BASE, 40: "4040404040404040", 60: GUIDE}


def test_a_segment_goes_on_from_the_tip(timeline: Timeline) -> None:
    bootstrapped(timeline)
    with pytest.raises(NPOError, match="starts at 3f2a.* but branch 'scout' ends at 8c1d.* after step 60"):
        timeline.add_segment(segment("scout", BASE, 0, 30, "eeee"))
    with pytest.raises(DataError, match="no branch 'lost'"):
        timeline.add_segment(segment("lost", BASE, 0, 30, "eeee"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"t1": 0}, "not after its start"),
        ({"parts": [70]}, r"covers \(0, 60\] but names the steps \[70\]"),
        ({"snapshots": {0: "aa"}}, r"names the steps \[0\]"),
        ({"snapshots": {60: "aa"}}, "ends in bb but has aa at 60"),
        ({"id": "../x"}, "pattern"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_segments_that_contradict_themselves(change: dict, words: str) -> None:
    good = {"id": "s", "branch": "b", "start": "aa", "end": "bb", "t0": 0, "t1": 60, "snapshots": {}, "parts": []}
    with pytest.raises(ValidationError, match=words):
        Segment(**{**good, **change})


def test_damaged_records_are_named(timeline: Timeline) -> None:
    bootstrapped(timeline)
    timeline.store.write_json("branches/late.json", {"name": "late"})
    with pytest.raises(DamagedError, match=r"branches/late\.json is no record of a branch \(parent: Field required"):
        timeline.branches()
    timeline.store.remove("branches/late.json")
    timeline.store.remove("branches/scout.json")
    with pytest.raises(DamagedError, match="'scout-0-60' is on branch 'scout', which has no record"):
        timeline.draw()


def test_an_unfinished_segment_is_invisible(timeline: Timeline) -> None:
    timeline.store.write_bytes("segments/half/steps-0.parquet", b"")
    assert timeline.segments() == []


FORKS = st.lists(st.tuples(st.integers(0, 10**6), st.lists(st.integers(1, 5), max_size=3)), min_size=1, max_size=7)


def plant(timeline: Timeline, forks: list[tuple[int, list[int]]]) -> dict[str, tuple[str, int]]:
    """Adds branches, each at a snapshot picked among those made before; branch -> (parent, step)."""
    made, parents = [(BASE, 0)], {}
    for number, (pick, lengths) in enumerate(forks):
        name = f"branch{number}."
        at, step = parents[name] = made[pick % len(made)]
        timeline.add_branch(Branch(name=name, parent=at, parent_step=step, reason="random"))
        for length in lengths:
            ids = {step + k: f"{name}{step + k}" for k in range(1, length + 1)}
            done = segment(name, at, step, step + length, ids[step + length], snapshots=ids)
            at, step = timeline.add_segment(done).end, done.t1
            made += [(id_, t) for t, id_ in ids.items()]
    return parents


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(forks=FORKS)
def test_random_trees(forks: list) -> None:
    with tempfile.TemporaryDirectory() as folder:
        timeline = Timeline(Store(Path(folder)))
        parents = plant(timeline, forks)
        drawing = timeline.draw()
        assert drawing == Timeline(Store(Path(folder))).draw()
        assert drawing.count("(tip)") == len(parents)
        # One line for each segment and each branch without one, below the base.
        empty = sum(not lengths for _, lengths in forks)
        assert len(drawing.splitlines()) == 1 + len(timeline.segments()) + empty
        names = re.findall(r"(?<=── )branch\d+\.(?= )", drawing)
        assert sorted(names) == sorted(parents)
        for name, (parent, step) in parents.items():
            check_way(timeline, name, parent, step)


def check_way(timeline: Timeline, name: str, parent: str, step: int) -> None:
    """Every step from the root to the tip lies on the way once, and it passes through the branch's parent."""
    way = timeline.stretches(name)
    steps = [t for stretch in way for t in range(stretch.t0 + 1, stretch.t1 + 1)]
    tip = max([s.t1 for s in timeline.segments() if s.branch == name], default=step)
    assert steps == list(range(1, tip + 1))
    assert [stretch.segment for stretch in way] == timeline.path(name)
    assert not way or way[0].segment.start == BASE
    before = [stretch for stretch in way if stretch.t1 == step]
    assert parent == BASE or before[0].segment.produced()[step] == parent
