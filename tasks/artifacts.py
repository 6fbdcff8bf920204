"""What a stage shows in the Prefect UI: markdown with tables and pictures, kept small."""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.logging import get_run_logger

MOST_BYTES = 190_000  # the UI becomes slow beyond; a picture that would not fit is left out
PUBLISHER = ThreadPoolExecutor(1, "artifacts")  # one after the other, while the next stage runs

Section = str | Callable[[], str]


def key_of(*parts: str) -> str:
    """An artifact key: lower-case letters, digits and dashes; the same key again is a new version of it."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def picture(png: bytes, title: str) -> str:
    """A PNG inside markdown, which both Prefect UIs render."""
    return f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"


def table(rows: Mapping[str, object], head: tuple[str, str] = ("what", "value")) -> str:
    """A two-column markdown table; bars inside a cell are kept from ending it."""
    cells = [head, ("---", "---"), *((name, show(value)) for name, value in rows.items())]
    return "\n".join("| {} | {} |".format(*(cell.replace("|", "\\|") for cell in row)) for row in cells)


def show(value: object) -> str:
    """A value in a table."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def where(workspace: str) -> str:
    """The line that says where a run lies, ready to paste."""
    return f"Workspace: `{workspace}`"


def trackers(links: Mapping[str, str]) -> str:
    """Where trackers show the run; empty where none is told of it."""
    return "\n".join(["### Trackers", "", *(f"* {name}: {link}" for name, link in links.items())]) if links else ""


def publish(key: str, description: str, *sections: Section) -> None:
    """Publish sections as one markdown artifact while the flow goes on; what takes time to draw comes as a function.

    Trouble is a warning, never a failed stage.
    """
    PUBLISHER.submit(copy_context().run, create, key, description, sections)


def wait_until_published() -> None:
    """Wait for all artifacts so far."""
    PUBLISHER.submit(lambda: None).result()


class Kept:
    """One artifact that is renewed in place, where new versions of a key would fill the server's database."""

    def __init__(self, key: str, description: str):
        self.key, self.description, self.id = key, description, None

    def renew(self, *sections: Section) -> None:
        """Show these sections from now on; as with `publish`, later and without harm."""
        PUBLISHER.submit(copy_context().run, self._renew, sections)

    def _renew(self, sections: Sequence[Section]) -> None:
        try:
            if self.id is None:
                self.id = create_markdown_artifact(render(sections), key=self.key, description=self.description)
                return
            with get_client(sync_client=True) as client:
                client.update_artifact(self.id, ArtifactUpdate(data=render(sections)))
        except Exception as error:
            get_run_logger().warning("The artifact %s could not be renewed: %s", self.key, error)


def create(key: str, description: str, sections: Sequence[Section]) -> None:
    """Render the sections and send them to the server."""
    try:
        if markdown := render(sections):
            create_markdown_artifact(markdown, key=key, description=description)
    except Exception as error:
        get_run_logger().warning("The artifact %s could not be published: %s", key, error)


def render(sections: Sequence[Section]) -> str:
    """The sections as markdown; without its pictures where it would be too large."""
    rendered = [section if isinstance(section, str) else section() for section in sections]
    markdown = "\n\n".join(section for section in rendered if section)
    if len(markdown) > MOST_BYTES:
        return re.sub(r"!\[[^]]*\]\(data:[^)]*\)", "(picture too large, see the workspace)", markdown)
    return markdown
