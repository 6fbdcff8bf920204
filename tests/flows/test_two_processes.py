"""Early bootstrapping whose training stages run in two processes: cache, rollback, guided replay, proof."""

from npo_core.stages.prove import prove_replay
from npo_core.timeline.segments import read_marks, read_outcomes


def test_the_whole_flow_in_two_processes(local, tmp_path):
    one, two = (
        local("early-bootstrap", tmp_path / name, {"execution.processes": processes, "training.steps": 12})
        for name, processes in (("one", 1), ("two", 2))
    )
    segments = [workspace.timeline.segments() for workspace in (one, two)]
    for alone, shared in zip(*segments, strict=True):
        assert (alone.branch, alone.t0, alone.t1) == (shared.branch, shared.t0, shared.t1)
        assert {mark.processes for mark in read_marks(two.store, shared.id)} == {2}
        assert read_outcomes(two.store, shared) == read_outcomes(one.store, alone)
    replays = [workspace.timeline.branch("replay") for workspace in (one, two)]
    caches = [list(w.open_cache(replay.cache, None, {})) for w, replay in zip((one, two), replays, strict=True)]
    assert [row.token_ids.tolist() for row in caches[1]] == [row.token_ids.tolist() for row in caches[0]] != []
    injected = [read_outcomes(two.store, segment)["injected"].to_pylist() for segment in segments[1]]
    assert [any(rows) for rows in injected] == [segment.cache is not None for segment in segments[1]]
    proof = prove_replay(two.uri, steps=4)
    assert proof["equal"] and proof["processes"] == {"original": [2], "replay": [2]}
