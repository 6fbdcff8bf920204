"""Runs of more than one branch: what was spent by when, what is on the way to the result, and how it is told."""

from dataclasses import replace

import pytest
from small_runs import (
    BASE,
    LATE,
    add_scores,
    add_segment,
    break_through,
    make_bootstrap,
    make_plateau,
    new_workspace,
    roll_back,
)

from npo_core.config import DataProblems
from npo_core.reporting.compare import compare, first_crossing
from npo_core.reporting.costs import Ledger, Totals
from npo_core.reporting.evaluation import evaluations_table
from npo_core.reporting.narrative import name_of, reproduce, what_ran
from npo_core.reporting.report import text
from npo_core.reporting.run_data import Rollback, Spent, load
from npo_core.reporting.tables import decisions_table, guidance_table
from npo_core.timeline import Branch


def totals(points):
    return [(p.step, p.updates_total, p.tokens_total) for p in points]


def test_a_ledger_pays_older_branches_whole():
    paid = [((1, 3), 1, 10, 4, 2.0), ((0, 9), 1, 5, 3, 1.0), ((1, -1.0), 0, 7, 0, 4.0), ((0, 9.5), 0, 2, 0, 0.5)]
    ledger = Ledger(paid)
    assert [ledger.until(position).seconds for position in ((0, 9), (1, 2), (1, 3))] == [1.0, 5.5, 7.5]
    assert Ledger([]).until((0, 9)) == Totals()
    assert ledger.until((0, 9)) == Totals(1, 5, 3)
    assert ledger.until((1, 2)) == Totals(1, 5 + 2 + 7, 3)
    assert ledger.until((1, 3)) == Totals(2, 5 + 2 + 7 + 10, 7)
    assert ledger.until((0, 0)) == Totals(0, 0)


def test_plateau_breakthrough_counts_what_it_left_behind(plateau):
    run = load(plateau)
    assert (run.kind, run.branch, run.guided_until, run.complete) == ("plateau-breakthrough", LATE, 6, True)
    way = [(0, 0, 0), (2, 2, 200), (2, 8, 870), (4, 10, 1070), (6, 12, 1270), (8, 14, 1470)]
    assert totals(run.points) == way
    assert [p.pass_rate for p in run.points] == [0.2, 0.4, 0.4, 0.7, 0.85, 0.9]
    (left,) = run.abandoned
    assert (left.branch, totals(left.points)) == ("main", [(2, 2, 200), (4, 4, 400), (6, 6, 600), (8, 8, 800)])
    assert run.spent == Spent(updates=6, tokens_abandoned=600, tokens_guidance=70)
    assert run.rollbacks == [Rollback(LATE, 6, 2, True, Totals(2, 200), Totals(8, 870))]


def test_a_curve_stands_still_while_something_else_is_paid(plateau, grpo):
    run = load(plateau)
    crossing = first_crossing(run.points, 0.55)  # half way from step 2 to step 4 of the replay
    assert (crossing.step, crossing.updates_total, crossing.tokens_total) == pytest.approx((3, 9, 970))
    rows = {row.at: row for row in compare(run, load(grpo)).scores}
    assert rows["8 updates in all"].run.pass_rate == pytest.approx(0.4)
    assert rows["8 updates in all"].baseline.pass_rate == 0.8
    assert rows["step 8"].difference.pass_rate == pytest.approx(0.1)


def test_auto_npo_counts_probes_guidance_and_every_branch(auto):
    run = load(auto)
    assert (run.kind, run.branch, run.guided_until, run.complete) == ("auto-npo", "replay-2", 10, True)
    assert totals(run.points) == [
        *[(0, 0, 0), (2, 2, 200), (4, 4, 400)],
        *[(4, 8, 940), (6, 10, 1140)],  # main whole 800, probes 30 and 40, guidance 70
        *[(6, 14, 1660), (8, 16, 1860), (10, 18, 2060), (12, 20, 2260)],  # and replay-1 whole 600, 50, 70
    ]
    assert [(piece.branch, totals(piece.points)) for piece in run.abandoned] == [
        ("main", [(4, 4, 400), (6, 6, 630), (8, 8, 830)]),  # the first probe lies between steps 4 and 5
        ("replay-1", [(6, 10, 1140), (8, 12, 1340), (10, 14, 1540)]),
    ]
    assert run.spent == Spent(updates=8, tokens_abandoned=800, tokens_guidance=140, tokens_probe=120)
    assert run.spent.tokens + run.steps.tokens == run.points[-1].tokens_total
    assert run.rollbacks == [
        Rollback("replay-1", 8, 4, True, Totals(4, 400), Totals(8, 940)),
        Rollback("replay-2", 10, 6, True, Totals(10, 1140), Totals(14, 1660)),
    ]


def test_what_is_counted_is_what_the_stages_cost(auto):
    run = load(auto)
    assert sum(cost.tokens for cost in run.stages if cost.counted) == run.points[-1].tokens_total == 2260
    assert "probe at step 4" in [cost.label for cost in run.stages]


def test_a_replay_that_was_left_behind_whole(auto):
    """A third branch leaves main before the first one did: nothing of replay-1 and replay-2 is on the way."""
    roll_back(auto, "replay-3", ("main", 2), ("main", 4), None)
    add_scores(auto, "replay-3", [0.6], first=4)
    run = load(auto)
    assert totals(run.points) == [(0, 0, 0), (2, 2, 200), (2, 20, 2260), (4, 22, 2460)]
    assert [(piece.branch, len(piece.steps)) for piece in run.abandoned] == [
        ("main", 6),
        ("replay-1", 6),
        ("replay-2", 6),
    ]
    assert run.rollbacks[-1] == Rollback("replay-3", 12, 2, False, Totals(2, 200), Totals(20, 2260))


def test_a_branch_that_was_opened_and_not_trained(plateau):
    plateau.timeline.add_branch(Branch(name="late-4-8-ffffff", parent="main4", parent_step=4, reason="again"))
    run = load(plateau)
    assert totals(run.points) == [(0, 0, 0), (2, 2, 200), (4, 4, 400), (4, 14, 1470)]
    assert run.branch == "late-4-8-ffffff" and not run.complete


def test_records_without_order_put_the_scout_first(bootstrap):
    for name in ("scout", "replay"):
        record = bootstrap.store.read_json(f"branches/{name}.json")
        assert record.pop("order") == (name == "replay")
        bootstrap.store.write_json(f"branches/{name}.json", record)
    run = load(bootstrap)
    assert (run.branch, bootstrap.timeline.final().name) == ("replay", "replay")
    assert totals(run.points)[0] == (0, 4, 470)


def test_a_watched_run_is_auto_npo_before_its_first_decision(grpo):
    spec = grpo.store.read_json("stages/train-mainfrom0/spec.json")
    grpo.store.write_json("stages/train-mainfrom0/spec.json", spec | {"control": {"trigger": {}}})
    assert name_of(load(grpo)) == "AutoNPO"


@pytest.mark.parametrize(("guided", "name"), [(True, "NPO late"), (False, "NPO late without guide")])
def test_names_of_late_runs(tmp_path, guided, name):
    assert name_of(load(make_plateau(tmp_path, guided))) == name


def test_early_and_late(tmp_path):
    workspace = make_bootstrap(tmp_path)
    assert name_of(load(workspace)) == "NPO early"
    break_through(workspace, "replay")
    run = load(workspace)
    assert (name_of(run), run.kind) == ("NPO early + late", "plateau-breakthrough")
    assert [(piece.branch, len(piece.steps)) for piece in run.abandoned] == [("scout", 4), ("replay", 6)]
    assert run.spent == Spent(updates=10, tokens_abandoned=1000, tokens_guidance=140)
    assert [line for line in "\n".join(reproduce(run, None)).splitlines() if line.startswith("npo run")] == [
        "npo run early-bootstrap --config WORKSPACE/config.json --workspace NEW_WORKSPACE",
        "npo run plateau-breakthrough --workspace NEW_WORKSPACE "
        "--set plateau.guide_step=6 --set plateau.rollback_step=2",
    ]


def test_it_is_reproduced_from_the_folder_that_its_relative_paths_count_from(grpo, tmp_path):
    """What is at a hub, or absolute, is found from anywhere."""
    run = replace(load(grpo), folder=str(tmp_path / "my project"))
    assert "cd " not in "\n".join(reproduce(run, None))
    (tmp_path / "my project").mkdir()
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / "my project" / name).touch()
    (tmp_path / "more.jsonl").touch()
    sources = {"train": {"path": "train.jsonl"}, "held_out": {"path": "openai/gsm8k"}}
    problems = {"kind": "data", **sources, "benchmarks": {"more": {"path": str(tmp_path / "more.jsonl")}}}
    config = run.config.model_copy(update={"problems": DataProblems.model_validate(problems)})
    text = "\n".join(reproduce(replace(run, config=config), None))
    assert f"Start it in {tmp_path}/my project, from which its relative paths count (train.jsonl)." in text
    assert f"cd '{tmp_path}/my project'\nnpo run grpo --config WORKSPACE" in text


def test_the_course_in_words(auto, plateau):
    words = what_ran(load(auto))
    assert "3 decisions, 2 interventions" in words and "went back from step 8 to step 4 (branch replay-1)" in words
    assert words.endswith("Otherwise it is plain GRPO, up to step 12. Seed 0.")
    assert "went back from step 6 to step 2" in what_ran(load(plateau))


def test_tables_of_an_auto_npo_run(auto):
    run = load(auto)
    table = decisions_table(run.decisions)
    no, yes, last = table.rows
    assert no[1:6] == ["4", "main", "no", "-", "-"] and no[-1] == "-"
    assert yes[1:10] == ["8", "main", "yes", "4", "0.250", "0.100", "1.105", "0.226", "+0.050"]
    brought = "Replay-1 against main: pass rate 0.700 against 0.650 (+0.050), entropy 0.200 against 0.100."
    assert f"* Decision 2: Reason 2. {brought}\n" in table.note
    assert last[1:3] == ["10", "replay-1"]
    assert [row[0] for row in evaluations_table(run).rows][2:6] == [
        "4",
        "4, after the rollback",
        "6",
        "6, after the rollback",
    ]
    table = guidance_table(run.guidance)
    assert table.header == ["", "replay-1", "replay-2"]
    assert table.rows[0] == ["cache", *(cache["id"] for cache in run.guidance)]
    assert "### Decisions" in text(run, None, None) and "auto.cooldown" in text(run, None, None)


def test_what_somebody_answered_is_told(auto):
    auto.store.write_json("decisions/0003-approval.json", {"answer": "other", "delta": 2, "by": "me"})
    assert decisions_table(load(auto).decisions).note.endswith("Delta 2 chosen instead.")


def test_settings_that_only_one_method_uses_do_not_differ(auto, plateau, tmp_path):
    config = auto.store.read_json("config.json")
    config["auto"]["cooldown"], config["injection"]["tau_gate"] = 7, 0.4
    auto.store.write_json("config.json", config)
    assert compare(load(auto), load(plateau)).differing_settings == [
        "injection.tau_gate: 0.4, baseline 0.6",
        "training.steps: 12, baseline 8",
    ]


def test_old_workspaces_without_new_settings_load(grpo):
    config = grpo.store.read_json("config.json")
    del config["auto"]
    grpo.store.write_json("config.json", config)
    assert load(grpo).complete


def test_two_branches_that_made_the_same_snapshot(tmp_path):
    """A replay without guidance repeats the steps exactly; the way goes through it once, and all is counted."""
    workspace = new_workspace(tmp_path)
    workspace.timeline.add_branch(Branch(name="main", parent=BASE, parent_step=0, reason="GRPO"))
    add_segment(workspace, "main", 0, 4)
    workspace.timeline.add_branch(Branch(name="replay-1", parent="main2", parent_step=2, reason="rollback"))
    add_segment(workspace, "replay-1", 2, 6, start="main2")
    run = load(workspace)
    assert [(c.branch, c.t0, c.t1, c.kept) for c in run.segments] == [
        ("main", 0, 2, True),
        ("main", 2, 4, False),
        ("replay-1", 2, 6, True),
    ]
    assert (run.steps_done, run.spent.updates) == (6, 2)
