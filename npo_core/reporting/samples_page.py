"""Logged completions as one HTML page that a browser opens without a server; all text is escaped."""

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from html import escape
from io import BytesIO

from npo_core.errors import NPOError
from npo_core.problems.picture import as_seen
from npo_core.problems.values import visible
from npo_core.reporting.samples import FLAGS, Group, figure, origin

PIXELS = 480  # sides of a picture at most
MOST_PICTURES = 20_000_000  # bytes of all pictures; those that come later are left out
Pictures = Callable[[str], Iterable[bytes]]  # the images of a prompt id

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:1100px;padding:1rem;color:#222;background:#fff}
form{position:sticky;top:0;background:#fff;padding:.6rem 0;border-bottom:1px solid #ccc;display:flex;gap:1rem;
flex-wrap:wrap;align-items:end}
label{display:flex;flex-direction:column;font-size:12px;color:#555}
article{border:1px solid #ddd;border-radius:6px;margin:1rem 0;padding:.6rem .9rem}
h2{font-size:15px;margin:0 0 .4rem}pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.2rem 0;font-size:13px}
.prompt{background:#f4f4f4;padding:.5rem;border-radius:4px;max-height:16rem;overflow:auto}
section{border-left:4px solid #bbb;padding:.1rem .7rem;margin:.5rem 0}
section.correct{border-color:#0072B2}section.injected,section.replayed{background:#FFF4E5;border-color:#D55E00}
.about{font-size:12px;color:#555}img{max-width:480px;margin:.3rem .3rem 0 0}[hidden]{display:none}
"""
SCRIPT = """
const form=document.querySelector('form'),all=[...document.querySelectorAll('article')];
function show(){const d=new FormData(form),from=+d.get('from'),to=d.get('to')===''?Infinity:+d.get('to');let n=0;
for(const a of all){const s=+a.dataset.step,ok=s>=from&&s<=to
&&(!d.get('outcome')||a.dataset.flags.split(' ').includes(d.get('outcome')))
&&(!d.get('source')||JSON.parse(a.dataset.sources).includes(d.get('source')))
&&(!d.get('prompt')||a.dataset.prompt.startsWith(d.get('prompt').trim()));a.hidden=!ok;n+=ok}
document.querySelector('output').textContent=n+' of '+all.length+' groups'}
form.addEventListener('input',show);form.addEventListener('submit',e=>e.preventDefault());show();
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def samples_page(groups: Sequence[Group], title: str, pictures: Pictures = lambda id_: ()) -> str:
    """The page: filters by step, outcome, source and prompt, then every group. It asks no server for anything.

    Args:
        pictures: gives the bytes of a prompt's images; one that is gone is named in its place.
    """
    album = Album(pictures)
    body = "".join(article(group, album) for group in groups)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><style>{STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1>{filters(groups)}{body}<script>{SCRIPT}</script></body></html>\n"
    )


def filters(groups: Sequence[Group]) -> str:
    """The form above the groups."""
    steps = [group.step for group in groups]
    low, high = min(steps, default=0), max(steps, default=0)
    there = {flag for group in groups for flag in group.flags}
    outcomes = options(["", *(flag for flag in FLAGS if flag in there)])
    sources = options(["", *sorted({source for group in groups for source in group.sources})])
    return (
        f'<form><label>from step<input type="number" name="from" value="{low}"></label>'
        f'<label>to step<input type="number" name="to" value="{high}"></label>'
        f'<label>outcome<select name="outcome">{outcomes}</select></label>'
        f'<label>source<select name="source">{sources}</select></label>'
        '<label>prompt id begins with<input name="prompt"></label><output></output></form>'
    )


def options(values: Sequence[str]) -> str:
    """The choices of a list; the empty one is all."""
    return "".join(f'<option value="{escape(value)}">{escape(value or "all")}</option>' for value in values)


def article(group: Group, album: "Album") -> str:
    """One group."""
    title = f"{group.branch}, step {group.step}, prompt {group.prompt_id}: {group.told}"
    data = f'data-step="{group.step}" data-flags="{" ".join(group.flags)}" data-prompt="{escape(group.prompt_id)}"'
    return (
        f'<article {data} data-sources="{escape(json.dumps(group.sources))}"><h2>{escape(title)}</h2>'
        f'<pre class="prompt">{escape(visible(group.prompt))}</pre>{album.images(group.prompt_id)}'
        f"{''.join(map(completion, group.samples))}</article>"
    )


def completion(row: dict) -> str:
    """One completion of a group."""
    about = (
        f"{origin(row)}; {row['verdict']}, reward {figure(row['reward'])}, advantage {figure(row['advantage'], '+')}, "
        f"{row['tokens']} tokens"
    )
    kinds = " ".join(word for word in (row["kind"], row["verdict"]) if word.isalpha())
    return (
        f'<section class="{escape(kinds)}"><div class="about">{escape(about)}</div>'
        f"<pre>{escape(visible(row['completion']))}</pre></section>"
    )


class Album:
    """Pictures of prompts as parts of the page, shrunk, up to `MOST_PICTURES` bytes."""

    def __init__(self, pictures: Pictures):
        self.pictures, self.left = pictures, MOST_PICTURES
        self.shown: dict[str, str] = {}

    def images(self, prompt_id: str) -> str:
        """The pictures of a prompt; the same again where it comes again."""
        if prompt_id not in self.shown:
            try:
                self.shown[prompt_id] = "".join(f'<img alt="" src="{inlined(c)}">' for c in self.pictures(prompt_id))
            except NPOError as error:
                self.shown[prompt_id] = f'<p class="about">{escape(str(error))}</p>'
        found = self.shown[prompt_id]
        if len(found) > self.left:
            return '<p class="about">Its pictures are left out: the page has enough.</p>'
        self.left -= len(found)
        return found


def inlined(content: bytes) -> str:
    """A picture as a data URI, of at most `PIXELS` a side."""
    image, sink = as_seen(content), BytesIO()
    image.thumbnail((PIXELS, PIXELS))
    image.save(sink, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}"
