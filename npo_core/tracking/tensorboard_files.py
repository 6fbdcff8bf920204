"""TensorBoard: event files, written without torch."""

import time
from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from npo_core.tracking.story import Event
from npo_core.tracking.tracker import About


class TensorBoard:
    """Event files in a folder. What was written after the last update in the ledger is void for readers."""

    def __init__(self, about: About):
        folder = about.folder / "tensorboard"
        self.link = str(folder)
        self.writer = EventFileWriter(str(folder))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(about.told + 1, session_log=start)  # TensorBoard drops what older files have from this step on
        rows = [f"| {name} | {value} |" for name, value in about.config.items()]
        self._text("run", "\n".join(["| setting | value |", "| --- | --- |", *rows]), about.told)

    def newest(self) -> int | None:
        return None  # what goes beyond the ledger is void

    def row(self, update: int, values: Mapping[str, float]) -> None:
        found = [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(update, summary=summary_pb2.Summary(value=found))

    def event(self, event: Event) -> None:
        if event.values:
            self.row(event.update, event.values)
            return
        self.row(event.update, {f"event/{event.kind}": 1.0})
        self._text(f"event/{event.kind}", f"**{event.title}**\n\n{event.text}", event.update)

    def flush(self) -> None:
        self.writer.flush()

    def close(self, failed: bool) -> None:
        self.writer.close()

    def _add(self, step: int, **content: Any) -> None:
        self.writer.add_event(event_pb2.Event(wall_time=time.time(), step=step, **content))

    def _text(self, tag: str, text: str, step: int) -> None:
        plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text", content=b"")
        shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)])
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[text.encode()], tensor_shape=shape)
        value = summary_pb2.Summary.Value(
            tag=f"{tag}/text_summary", metadata=summary_pb2.SummaryMetadata(plugin_data=plugin), tensor=tensor
        )
        self._add(step, summary=summary_pb2.Summary(value=[value]))
