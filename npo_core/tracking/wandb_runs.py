"""Weights & Biases, online or offline as WANDB_MODE says."""

from collections.abc import Mapping

import wandb

from npo_core.tracking.story import Event
from npo_core.tracking.tracker import About

LEVELS = {"info": "INFO", "warn": "WARN", "error": "ERROR"}


class WeightsAndBiases:
    """A run by its id. Steps only rise there, so scores and late events have an axis of their own."""

    def __init__(self, about: About):
        about.folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=about.project,
            id=about.id,
            name=about.name,
            group=about.group,
            config=dict(about.config),
            resume="allow",
            dir=str(about.folder),
            settings=wandb.Settings(console="off", silent=True, disable_git=True, x_disable_stats=True),
        )
        self.link = self.run.url or f"{about.folder}/wandb (offline; upload with `wandb sync`)"
        for prefix in ("evaluation", "event"):
            self.run.define_metric(f"{prefix}/update", hidden=True)
            self.run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/update")
        # After a resumption online the run knows its next step; offline nobody does.
        self.known = self.run.starting_step - 1 if self.run.resumed else None
        self.step = max(about.told, self.known or 0)

    def newest(self) -> int | None:
        return self.known

    def row(self, update: int, values: Mapping[str, float]) -> None:
        self.step = max(self.step, update)
        self.run.log(dict(values), step=update)

    def event(self, event: Event) -> None:
        if event.values:
            self.run.log({**event.values, "evaluation/update": event.update}, step=self.step)
            return
        self.run.log({f"event/{event.kind}": 1.0, "event/update": event.update}, step=self.step)
        self.run.alert(event.title, event.text, LEVELS[event.level], wait_duration=0)
        self.run.summary[f"events/{event.key}"] = f"update {event.update}: {event.title}. {event.text}"

    def flush(self) -> None:
        """Weights & Biases has a service of its own, which goes on writing; nobody can wait for it but at the end."""

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))
