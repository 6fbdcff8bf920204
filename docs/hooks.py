"""What mkdocs does beyond its own: pages from the checkout's root, and links as the checkout has them.

Links in README.md and docs/ are written for a reader of the checkout. A link to a page is one of the site, too; a link
to any other file becomes its text; what leads nowhere stays as it is, and a strict build fails on it.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
NAMES = {file: page for page, file in PAGES.items()}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    for page, name in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """The page with the site's links."""
    folder = "" if page.file.src_uri in PAGES else "docs"
    return LINK.sub(lambda found: linked(found, folder), markdown)


def linked(found: re.Match[str], folder: str) -> str:
    """A link from a page in a folder of the checkout, as the site has it."""
    picture, text, target, anchor = found.groups(default="")
    path = posixpath.normpath(posixpath.join(folder, target))
    if path in NAMES:
        return f"{picture}[{text}]({NAMES[path]}{anchor})"
    if path.startswith("docs/"):
        return f"{picture}[{text}]({path.removeprefix('docs/')}{anchor})"
    return text if (ROOT / path).exists() else found[0]
