"""What each tracker was told, read back from where it keeps it: (update, name, value) of figures, titles of events."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = 32768


class Told(NamedTuple):
    figures: list[tuple[int, str, float]]  # in the order of updates, as often as they are there
    events: list[str]  # their titles
    config: dict[str, str]

    def steps(self, name: str) -> list[int]:
        """The updates at which a figure is, as often as it is there."""
        return sorted(update for update, found, _ in self.figures if found == name)

    def value(self, name: str, update: int) -> float:
        [value] = [v for u, found, v in self.figures if (u, found) == (update, name)]
        return value


def tensorboard(folder: Path) -> Told:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    tags = reader.Tags()
    figures = [(e.step, tag, e.value) for tag in tags["scalars"] for e in reader.Scalars(tag)]
    texts = {
        tag: [e.tensor_proto.string_val[0].decode() for e in reader.Tensors(tag)]
        for tag in tags["tensors"]
        if tag.endswith("text_summary")
    }
    events = [text.split("**")[1] for tag, of in texts.items() if tag.startswith("event/") for text in of]
    lines = [line.split(" | ") for line in texts["run/text_summary"][-1].splitlines()[2:]]
    return Told(figures, events, {line[0].strip("| "): line[-1].strip("| ") for line in lines})


def trackio(folder: Path) -> Told:
    [file] = [f for f in (folder / "trackio").glob("*.db") if f.name.startswith("npo")]
    with sqlite3.connect(file) as database:
        rows = database.execute("select step, metrics from metrics").fetchall()
        events = [title for (title,) in database.execute("select title from alerts order by id").fetchall()]
        configs = database.execute("select config from configs order by id").fetchall()
        assert len({run for (run,) in database.execute("select distinct run_id from metrics").fetchall()}) == 1
    figures = [(step, name, value) for step, metrics in rows for name, value in json.loads(metrics).items()]
    return Told(figures, events, json.loads(configs[-1][0]))


def wandb(folder: Path) -> Told:
    import wandb.proto.wandb_internal_pb2 as pb

    figures, events, config = [], [], {}
    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        for data in records(file.read_bytes()):
            record = pb.Record()
            record.ParseFromString(data)
            if record.HasField("history"):
                items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                figures += [(items["_step"], name, value) for name, value in items.items() if not name.startswith("_")]
            elif record.HasField("alert"):
                events.append(record.alert.title)
            elif record.HasField("run"):
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    return Told(figures, events, config)


def records(log: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format behind a header of seven bytes."""
    place, found = 7, b""
    while place + 7 <= len(log):
        if (left := BLOCK - place % BLOCK) < 7:
            place += left
            continue
        length, kind = int.from_bytes(log[place + 4 : place + 6], "little"), log[place + 6]
        found += log[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield found
            found = b""


def mlflow(folder: Path) -> Told:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("npo")
    [run] = client.search_runs([experiment.experiment_id])
    names = run.data.metrics
    figures = [(m.step, name, m.value) for name in names for m in client.get_metric_history(run.info.run_id, name)]
    events = [text.split(": ", 1)[1].split(". ")[0] for key, text in run.data.tags.items() if key.startswith("event/")]
    return Told(figures, events, {**run.data.params, **run.data.tags})


READERS: dict[str, Callable[[Path], Told]] = {
    "tensorboard": tensorboard,
    "trackio": trackio,
    "wandb": wandb,
    "mlflow": mlflow,
}
