"""The one look of the reports: pages in one file that can be opened from disk and ask nobody for anything.

Whatever comes from outside (names, messages, remarks) is escaped here, and the page forbids the browser everything but
its own style and the pictures that it carries.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from ddfm_monai._version import __version__

__all__ = ["NOTICE", "Case", "index_page", "is_ours", "page", "picture", "thumbnail"]

NOTICE = "Not for diagnostic use."
_MARK = '<meta name="generator" content="ddfm-monai report">'
_THUMBNAIL = 320  # pixels wide
_NOWHERE = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2430; --faint: #5b6472; --line: #d9dde3; --shade: #f4f6f9;
  --link: #1f5fbf; --good: #1c7a3d; --bad: #b3261e; --doubt: #8a5a00; --warn: #fff4cf }
@media (prefers-color-scheme: dark) { :root { --paper: #14181f; --ink: #e2e6ec; --faint: #98a2b1; --line: #333b47;
  --shade: #1c222b; --link: #8ab4f8; --good: #6fcf8b; --bad: #ff8a80; --doubt: #f2c063; --warn: #3a3113 } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1168px; margin: 1.5em auto; padding: 0 1em; color: var(--ink);
  background: var(--paper); overflow-wrap: break-word }
h1 { font-size: 1.6em; margin: .5em 0 } h2 { font-size: 1.2em; margin: 2em 0 .5em }
a { color: var(--link) } .faint, footer { color: var(--faint) }
footer { margin: 3em 0 1em; padding-top: .7em; border-top: 1px solid var(--line) }
.warning { background: var(--warn); padding: .6em 1em; border-left: 4px solid #e0b000 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .3em .6em; border-bottom: 1px solid var(--line); vertical-align: top; text-align: left }
th { font-weight: 600 } .figures td + td, .figures th + th { text-align: right; font-variant-numeric: tabular-nums }
.cases { width: 100% } .cases td:first-child { width: 336px }
.cases img { width: 320px; display: block; background: #000 }
.cases .name, .cases .how { min-width: 10em } .cases ul { margin: 0; padding-left: 1.1em }
.badge { font-size: .85em; padding: .05em .55em; border: 1px solid currentColor; border-radius: 1em;
  white-space: nowrap }
.good { color: var(--good) } .bad { color: var(--bad) } .doubt { color: var(--doubt) }
@media (max-width: 800px) { .cases thead { display: none } .cases tr, .cases td { display: block; border: 0;
  padding: .15em 0 } .cases tr { border-bottom: 1px solid var(--line); padding: .7em 0 }
  .cases td:first-child { width: auto } .cases img { width: 100%; max-width: 320px } }
@media print { .cases tr, figure { break-inside: avoid } }
"""

_TONE = {"ok": "good", "kept": "good", "resumed": "good", "failed": "bad", "ambiguous": "doubt"}


def page(title: str, body: str, style: str = "") -> str:
    """A whole HTML document.

    Args:
        title: text; is escaped.
        body: HTML.
        style: CSS that this kind of page needs besides.
    """
    return "\n".join(
        (
            f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>{_MARK}",
            f'<meta http-equiv="Content-Security-Policy" content="{_NOWHERE}">',
            "<meta name='viewport' content='width=device-width, initial-scale=1'>",
            f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head>",
            f"<body><h1>{escape(title)}</h1>",
            body,
            f"<footer>ddfm-monai {__version__}. {NOTICE}</footer></body></html>\n",
        )
    )


def is_ours(path: Path) -> bool:
    """Whether a file is a page that :func:`page` made: others are not written over."""
    try:
        return _MARK.encode() in path.read_bytes()[:500]
    except OSError:
        return False


def picture(data: bytes, alt: str, kind: str = "png") -> str:
    """An ``<img>`` that carries its picture.

    Args:
        data: content of a file of that kind.
        alt: text; is escaped.
        kind: ``"png"`` or ``"jpeg"``.
    """
    return f"<img alt='{escape(alt)}' src='data:image/{kind};base64,{base64.b64encode(data).decode()}'>"


def thumbnail(path: Path) -> bytes:
    """A picture file as a small JPEG; empty where there is none that can be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as full:
            small = full.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return b""
    small.thumbnail((_THUMBNAIL, 2 * _THUMBNAIL))
    content = io.BytesIO()
    small.save(content, "JPEG", quality=82)
    return content.getvalue()


@dataclass(frozen=True)
class Case:
    """One row of an index page; all texts are escaped when they are shown.

    Args:
        name: of the case.
        status: ``"ok"``, ``"kept"``, ``"failed"``, ...
        sources: what was fused with what, a text each.
        how: registration, overlap, size, time: a short text each.
        remarks: what a person should read.
        picture: content of a JPEG, or nothing.
        links: text and path relative to the page.
    """

    name: str
    status: str
    sources: Sequence[str] = ()
    how: Sequence[str] = ()
    remarks: Sequence[str] = ()
    picture: bytes = b""
    links: Sequence[tuple[str, str]] = ()


def index_page(title: str, lead: Iterable[str], cases: Sequence[Case], left_out: Sequence[Case] = ()) -> str:
    """One page for many results: a row each, then what was left out.

    Args:
        title: what was done.
        lead: sentences above the table.
        cases: a row each, in this order.
        left_out: what stands below them, without pictures.
    """
    parts = [f"<p>{escape(sentence)}</p>" for sentence in lead]
    parts.append(f"<p class='warning'><b>{NOTICE}</b> Look at the sources before you believe a fused picture.</p>")
    if cases:
        head = "".join(f"<th>{name}</th>" for name in ("Picture", "Case", "Sources", "How", "Remarks"))
        rows = "\n".join(map(_row, cases))
        parts.append(f"<table class='cases'><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>")
    if left_out:
        rows = "\n".join(
            f"<tr><td>{escape(case.name)}</td><td>{_badge(case.status)}</td><td>{_lines(case.sources)}</td>"
            f"<td>{_list(case.remarks)}</td></tr>"
            for case in left_out
        )
        parts.append(
            f"<h2>Left out</h2><table><tr><th>Case</th><th></th><th>Sources</th><th>Why</th></tr>\n{rows}</table>"
        )
    return page(title, "\n".join(parts))


def _row(case: Case) -> str:
    shown = picture(case.picture, f"{case.name}: sources and result", "jpeg") if case.picture else ""
    links = "".join(f"<br><a href='{escape(quote(target))}'>{escape(text)}</a>" for text, target in case.links)
    return (
        f"<tr><td>{shown}</td><td class='name'><b>{escape(case.name)}</b><br>{_badge(case.status)}{links}</td>"
        f"<td>{_lines(case.sources)}</td><td class='how'>{_lines(case.how)}</td><td>{_list(case.remarks)}</td></tr>"
    )


def _lines(texts: Sequence[str]) -> str:
    return "<br>".join(map(escape, texts))


def _badge(status: str) -> str:
    return f"<span class='badge {_TONE.get(status, 'faint')}'>{escape(status)}</span>"


def _list(texts: Sequence[str]) -> str:
    if len(texts) < 2:
        return "".join(map(escape, texts))
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"
