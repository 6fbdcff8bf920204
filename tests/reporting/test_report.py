"""report/: its files, what they say, and that equal workspaces give equal bytes."""

import json
import shutil

from small_runs import add_scores, add_segment, new_workspace, snapshot, step_row

from npo_core.reporting.curves import fill_curves
from npo_core.reporting.plots import draw, fill_training, half_window, smooth
from npo_core.reporting.report import write_report
from npo_core.reporting.run_data import load
from npo_core.reporting.segment import segment_metrics, segment_png, segment_rows
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Branch
from npo_core.timeline.segments import Mark, write_part
from tasks.base import describe_problems

FILES = ("curves.png", "report.json", "report.md", "training.png")


def read(workspace):
    return {name: workspace.store.read_bytes(f"report/{name}") for name in workspace.store.list("report")}


def test_files_and_figures(bootstrap, grpo):
    figures = write_report(bootstrap, grpo)
    files = read(bootstrap)
    assert tuple(files) == FILES
    assert json.loads(files["report.json"]) == json.loads(json.dumps(figures))
    assert figures["final"]["tokens_total"] == 1270 and figures["complete"]
    assert figures["baseline"]["final"]["tokens_total"] == 800
    for name in ("curves.png", "training.png"):
        assert files[name].startswith(b"\x89PNG") and len(files[name]) < 150_000


def test_the_text_stands_alone(bootstrap, grpo):
    write_report(bootstrap, grpo)
    text = bootstrap.store.read_bytes("report/report.md").decode()
    for said in (
        "# tiny: NPO early",
        "**0.950 (0.855 to 0.984)** (95 % interval) after step 8 (12 updates and 1,270 generated tokens in all)",
        "it first reaches 0.8 between steps 4 and 6 (about 5)",
        "Against the baseline, with 95 % intervals: +0.150 (+0.042 to +0.223) at step 8",
        "![",
        "](curves.png)",
        "](training.png)",
        "A scout ran 4 steps",
        "coverage Q",
        "difficulty 4",
        "npo run early-bootstrap --config",
        "torch 2.9",
        "counted, together",
    ):
        assert said in text, said


def test_equal_workspaces_give_equal_bytes(bootstrap, tmp_path):
    write_report(bootstrap)
    copy = Workspace(shutil.copytree(bootstrap.uri, tmp_path / "elsewhere"))
    copy.store.remove("report")
    write_report(copy)
    assert read(copy) == read(bootstrap)


def test_an_empty_run_has_a_report(tmp_path):
    workspace = new_workspace(tmp_path)
    figures = write_report(workspace)
    assert tuple(read(workspace)) == FILES
    assert figures["final"] is None and not figures["complete"]
    assert "Nothing is evaluated yet; 0 of 8 steps are done." in workspace.store.read_bytes("report/report.md").decode()


def test_reports_of_trees(auto, plateau, grpo):
    for workspace, name in ((auto, "AutoNPO"), (plateau, "NPO late")):
        figures = write_report(workspace, grpo)
        files = read(workspace)
        assert f"# tiny: {name}".encode() in files["report.md"] and len(files["curves.png"]) < 150_000
        assert json.loads(files["report.json"]) == json.loads(json.dumps(figures)) and figures["complete"]
    assert [piece["branch"] for piece in figures["abandoned"]] == ["main"]
    after = figures["rollbacks"][0]["after"]
    assert after.pop("seconds") > 0 and after == {"updates": 8, "tokens": 870, "trained": 0}


def test_pictures_show_every_intervention_and_what_it_left(auto, grpo):
    run = load(auto)
    drawn = {}
    draw("AA;BC", (10, 8), lambda axes: drawn.update(axes=axes, nothing=fill_curves(axes, run, load(grpo), ("a", "b"))))
    by_step, by_updates, _ = drawn["axes"]
    assert [line.get_xdata()[0] for line in by_step.lines if line.get_linestyle() == ":"][1:] == [8, 10]
    assert [text.get_text() for text in by_step.texts if "back" in text.get_text()] == ["back by 4", "back by 4"]
    left = [list(line.get_xdata()) for line in by_updates.lines if line.get_label() == "abandoned"]
    assert left == [[4, 6, 8], [10, 12, 14]]
    assert [text.get_text() for text in by_step.get_legend().get_texts()] == [
        "a",
        "abandoned",
        "b",
        "guided replay",
        "spent beside the way",
    ]


def test_a_run_that_was_rolled_back_before_any_evaluation_has_pictures(auto):
    auto.store.remove("evaluations")
    assert write_report(auto)["points"] == []
    assert read(auto)["curves.png"].startswith(b"\x89PNG")


def test_a_segment_by_itself(bootstrap):
    guided = bootstrap.timeline.segment("replayfrom0")
    metrics = segment_metrics(bootstrap.store, guided)
    rows = segment_rows(metrics)
    assert rows["pass rate, on-policy"] == "0.250, 0.100 → 0.400"
    assert segment_png(metrics).startswith(b"\x89PNG")
    plain = segment_rows(segment_metrics(bootstrap.store, bootstrap.timeline.segment("scoutfrom0")))
    assert "KL(guide || policy), nats a token" in rows and "KL(guide || policy), nats a token" not in plain


def test_smoothing_keeps_constants_and_length():
    assert smooth([2.0] * 7, 3) == [2.0] * 7
    assert smooth([0.0, 3.0, 9.0], 1) == [0.0, 4.0, 9.0]  # the first and the last are what they were
    assert smooth([1.0, 2.0, 9.0, 2.0, 1.0], 2) == [1.0, 4.0, 3.0, 4.0, 1.0]
    assert [half_window(updates) for updates in (8, 39, 40, 300)] == [0, 0, 1, 7]


def test_pictures_of_a_short_run_have_whole_steps_and_shares_between_0_and_1(tmp_path):
    """Two updates, of which the first is seen as it was, and a score near 0."""
    workspace = new_workspace(tmp_path)
    workspace.timeline.add_branch(Branch(name="main", parent="base", parent_step=0, reason="GRPO"))
    add_segment(workspace, "main", 0, 2)
    add_scores(workspace, "main", [0.01, 0.99])
    run, panels = load(workspace), {}
    draw("AA;BC", (10, 8), lambda axes: panels.update(curves=axes, done=fill_curves(axes, run, None, ("a", "b"))))
    draw("AB;CD", (10, 7), lambda axes: panels.update(training=axes, done=fill_training(axes, run, None, ("a", "b"))))
    for ax in [*panels["curves"], *panels["training"]]:
        assert all(tick == round(tick) for tick in ax.get_xticks()), ax.get_title()
    rate = panels["training"][0]
    assert all(list(line.get_ydata()) == [0.1, 0.2] for line in rate.lines)
    bands = [path.vertices[:, 1] for ax in panels["curves"] for band in ax.collections for path in band.get_paths()]
    assert bands and all(0 <= band.min() and band.max() <= 1 for band in bands)


def test_a_report_of_a_run_that_goes_on_does_not_contradict_itself(begun):
    """The updates that an unfinished stage has committed are in the sum of the stages too."""
    workspace = begun()
    folder = workspace.scratch / "made"
    folder.mkdir()
    start = workspace.timeline.snapshots.add(folder, content={"weights": "00"}, step=0, info={})
    spec = {"branch": "main", "start": start.id, "until": 8, "cache": None}
    workspace.store.write_json("stages/train-half/spec.json", spec)
    rows = [step_row(1, False), step_row(2, False)]
    write_part(workspace.store, "half", Mark(2, "main2", 1.5), rows, [])
    figures = write_report(workspace)
    counted = [stage for stage in figures["stages"] if stage["counted"]]
    assert [(s["label"], s["updates"], s["tokens"], s["seconds"]) for s in counted] == [
        ("train main 0-2, so far", 2, 200, 1.5)
    ]
    assert (figures["updates_total"], figures["tokens_total"]) == (2, 200)


def test_answers_without_a_verdict_are_told_where_there_are_any(bootstrap):
    write_report(bootstrap)
    assert b"### Verification" not in bootstrap.store.read_bytes("report/report.md")
    counted = {"verified_unparsable": 3.0, "verified_crash": 1.0}
    rows = [step_row(step, guided=False) | counted for step in (1, 2)]
    write_part(bootstrap.store, "scoutfrom0", Mark(2, snapshot("scout", 2), 0.5), rows, [])
    write_report(bootstrap)
    text = bootstrap.store.read_bytes("report/report.md").decode()
    training = text.split("## Training")[1]
    assert "### Verification" in training
    assert "| steps | unparsable | timed out | crashed |" in training
    assert "| scout 0-4 (abandoned) | 6 | 0 | 2 |" in training


def test_problems_from_data_are_counted(bootstrap):
    (name,) = [name for name in bootstrap.store.list("stages") if name.startswith("base-")]
    record = bootstrap.store.read_json(f"stages/{name}/result.json")
    part = {"source": "a.jsonl", "rows": 1200, "problems": 1193, "images": 0, "dropped": [], "prompt_tokens": None}
    long = {"why": "the prompt is too long", "count": 7, "rows": ["3", "9", "12", "40", "41"]}
    lengths = {"min": 5, "median": 280, "max": 1512}
    record["result"]["problems"] = {"train": part | {"dropped": [long], "prompt_tokens": lengths}, "held_out": part}
    bootstrap.store.write_json(f"stages/{name}/result.json", record)
    assert write_report(bootstrap)["problems"]["train"]["problems"] == 1193
    text = bootstrap.store.read_bytes("report/report.md").decode()
    assert "| training | a.jsonl | 1,200 | 1,193 | 7 | 5 / 280 / 1,512 | 0 |" in text
    assert "Dropped from training: the prompt is too long: rows 3, 9, 12, 40, 41, ... (7 in all)." in text
    (section,) = [part for part in describe_problems(record["result"]["problems"]) if "|" in part]
    assert section in text


def test_completions_that_are_cut_off_are_shown_with_what_to_do(tmp_path):
    """Half of the last quarter's are cut off; the batch has 4 groups of 8."""
    workspace = new_workspace(tmp_path)
    workspace.timeline.add_branch(Branch(name="main", parent="base", parent_step=0, reason="GRPO"))
    add_segment(workspace, "main", 0, 8)
    counted = {"cut_off": 0.5, "verified_unparsable": 4.0, "completion_length": 60.0}
    rows = [step_row(step, guided=False) | counted for step in (7, 8)]
    write_part(workspace.store, "mainfrom0", Mark(8, snapshot("main", 8), 0.5), rows, [])
    write_report(workspace)
    text = workspace.store.read_bytes("report/report.md").decode()
    assert "| main 0-2 | 0.0 | 0.0 % | 0.0 % |" in text and "| main 6-8 | 60.0 | 50.0 % | 12.5 % |" in text
    limit = load(workspace).config.training.max_completion_tokens
    assert f"50.0 % of the answers were cut off at training.max_completion_tokens = {limit}" in text
    assert "have no final answer" not in text
    assert segment_rows(load(workspace).steps)["share of completions cut off"] == "0.125, 0.000 → 0.500"
