"""The HTML report of `ddfm evaluate`: one file with tables, pictures and explanations, no outside resources."""

from __future__ import annotations

import base64
import html
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddfm_monai._version import __version__
from ddfm_monai.metrics.check import FLAGS
from ddfm_monai.metrics.files import BASELINES, Evaluation, mean_metrics
from ddfm_monai.metrics.glossary import FLAG_MEANINGS, GLOSSARY, WARNING
from ddfm_monai.metrics.tables import check_sentence

__all__ = ["html_report"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .25em .7em; border-bottom: 1px solid #ddd }
td { text-align: right; font-variant-numeric: tabular-nums } td:first-child, .words td { text-align: left }
.scroll { overflow-x: auto } .warning { background: #fff6d9; padding: .6em 1em; border-left: 4px solid #e0b000 }
figure { display: inline-block; margin: 0 .5em .5em 0 } figure img { width: 256px; background: #000 }
figure { position: relative } figure svg { position: absolute; left: 0; top: 0; width: 256px; opacity: .6 }
figure:hover svg { opacity: 0 } .invented { fill: #ff3c3c } .missing { fill: #ffbe00 } .detail { fill: #50aaff }
figcaption { text-align: center; color: #555 }
"""

_ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


def html_report(evaluations: list[Evaluation]) -> str:
    """The whole report as one HTML document."""
    rows = {evaluation.name: evaluation.metrics for evaluation in evaluations}
    if len(evaluations) > 1:
        rows = {"mean over all": mean_metrics(list(rows.values())), **rows}
    for name in BASELINES:
        rows[f"pixelwise {name} instead"] = mean_metrics([e.baselines[name] for e in evaluations])
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Fusion quality</title>",
        f"<style>{_STYLE}</style><h1>Fusion quality</h1>",
        f"<p class='warning'><b>Read with care.</b> {html.escape(WARNING)}</p>",
        _table(rows, names),
        *(_pair(evaluation) for evaluation in evaluations),
        _glossary(names),
        f"<p>ddfm-monai {__version__}. Not for diagnostic use.</p></html>",
    ]
    return "\n".join(parts)


def _table(rows: dict[str, dict[str, float]], names: list[str]) -> str:
    head = "".join(f"<th>{name}{_ARROWS[GLOSSARY[name].better]}</th>" for name in names)
    lines = []
    for label, row in rows.items():
        cells = "".join(f"<td>{row[name]:.3f}</td>" if name in row else "<td></td>" for name in names)
        lines.append(f"<tr><td>{html.escape(label)}</td>{cells}</tr>")
    return f"<div class='scroll'><table><tr><th></th>{head}</tr>{''.join(lines)}</table></div>"


def _pair(evaluation: Evaluation) -> str:
    lines = [f"<h2>{html.escape(evaluation.name)}</h2>", *(f"<p>{html.escape(n)}</p>" for n in evaluation.notes)]
    lines.append(f"<p>{html.escape(check_sentence(evaluation.check))} Point at a fused picture to see it without.</p>")
    for views, flags in zip(evaluation.pictures, evaluation.flags, strict=True):
        figures = (
            f"<figure><img alt='{name}' src='{_data_uri(view)}'>{_overlay(flags) if name == 'fused' else ''}"
            f"<figcaption>{name}</figcaption></figure>"
            for name, view in views.items()
        )
        lines.append(f"<div>{''.join(figures)}</div>")
    return "\n".join(lines)


def _data_uri(view: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(view)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _overlay(flags: NDArray[np.uint8]) -> str:
    """Flagged pixels as runs of each row, drawn over a picture."""
    height, width = flags.shape
    runs = []
    for name, value in FLAGS.items():
        for row in np.flatnonzero((flags == value).any(axis=1)):
            edges = np.flatnonzero(np.diff(np.pad(flags[row] == value, 1).astype(np.int8)))
            for start, end in edges.reshape(-1, 2):
                runs.append(f"<rect class='{name}' x='{start}' y='{row}' width='{end - start}' height='1'/>")
    return f"<svg viewBox='0 0 {width} {height}'>{''.join(runs)}</svg>"


def _glossary(names: list[str]) -> str:
    rows = (
        f"<tr><td><b>{name}</b></td><td>{html.escape(GLOSSARY[name].title)}</td>"
        f"<td>{html.escape(GLOSSARY[name].meaning)}</td><td>{html.escape(GLOSSARY[name].pitfall)}</td></tr>"
        for name in names
    )
    head = "<tr><th></th><th>name</th><th>what it measures</th><th>what it rewards wrongly</th></tr>"
    arrows = "↑ higher is meant to be better, ↓ lower, no arrow: neither."
    flags = "".join(
        f"<tr><td><svg width='12' height='12'><rect class='{name}' width='12' height='12'/></svg> <b>{name}</b></td>"
        f"<td>{html.escape(meaning)}</td></tr>"
        for name, meaning in FLAG_MEANINGS.items()
    )
    return (
        f"<h2>What the columns mean</h2><p>{arrows}</p><table class='words'>{head}{''.join(rows)}</table>"
        f"<h2>What the colours mean: look at the sources there</h2><table class='words'>{flags}</table>"
    )
