"""The HTML report of `ddfm evaluate`: one file with tables, pictures and explanations, no outside resources."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddfm_monai.metrics.check import FLAGS
from ddfm_monai.metrics.files import BASELINES, Evaluation, mean_metrics
from ddfm_monai.metrics.glossary import FLAG_MEANINGS, GLOSSARY, WARNING
from ddfm_monai.metrics.lesions import LESION_KINDS, SHARED_KINDS
from ddfm_monai.metrics.tables import check_sentence
from ddfm_monai.pages import page, picture
from ddfm_monai.volumes.colour import FLAG_COLOURS

__all__ = ["html_report"]

_STYLE = """
.figures td, .figures th { padding: .25em .42em; font-size: .9em }
.slice { display: grid; grid-template-columns: repeat(5, 1fr); gap: .5em; margin: .3em 0 1.2em }
.slice h3 { grid-column: 1 / -1; margin: .6em 0 0; font-size: 1em }
figure { margin: 0; position: relative } figure img { width: 100%; display: block; background: #000 }
figure svg { position: absolute; left: 0; top: 0; width: 100%; opacity: .6 } figure:hover svg { opacity: 0 }
figcaption { text-align: center; color: var(--faint) }
@media (max-width: 800px) { .slice { grid-template-columns: repeat(2, 1fr) } }
""" + "".join(f".{name} {{ fill: rgb{colour} }}\n" for name, colour in FLAG_COLOURS.items())

_FEW = ("SSIM_range2", "VIF", "Qabf")  # said beside each slice
_ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


def html_report(evaluations: Sequence[Evaluation], how: Mapping[str, str] | None = None) -> str:
    """The whole report as one HTML document.

    Args:
        evaluations: at least one.
        how: what the reader should know of the run, name to text: date, settings, how the fusion was made.
    """
    rows = {evaluation.name: evaluation.metrics for evaluation in evaluations}
    if len(evaluations) > 1:
        rows = {"mean over all": mean_metrics(list(rows.values())), **rows}
    for name in BASELINES:
        rows[f"pixelwise {name} instead"] = mean_metrics([e.baselines[name] for e in evaluations])
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    parts = [
        f"<p class='warning'><b>Read with care.</b> {escape(WARNING)}</p>",
        _pairs_of(how or {}),
        _table(rows, names),
        *(_pair(evaluation) for evaluation in evaluations),
        _glossary(names),
    ]
    return page("Fusion quality", "\n".join(parts), _STYLE)


def _pairs_of(said: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in said.items())
    return f"<table>{rows}</table>" if rows else ""


def _table(rows: dict[str, dict[str, float]], names: list[str]) -> str:
    head = "".join(f"<th>{name.replace('_', ' ')}{_ARROWS[GLOSSARY[name].better]}</th>" for name in names)
    lines = []
    for label, row in rows.items():
        cells = "".join(f"<td>{row[name]:.3f}</td>" if name in row else "<td></td>" for name in names)
        lines.append(f"<tr><td>{escape(label)}</td>{cells}</tr>")
    return f"<div class='scroll'><table class='figures'><tr><th></th>{head}</tr>{''.join(lines)}</table></div>"


def _pair(evaluation: Evaluation) -> str:
    lines = [f"<h2>{escape(evaluation.name)}</h2>", _pairs_of(evaluation.sources)]
    lines += [f"<p>{escape(note)}</p>" for note in evaluation.notes]
    lines.append(f"<p>{escape(check_sentence(evaluation.check))} Point at a fused picture to see it without.</p>")
    lines += [_slice(evaluation, k) for k in evaluation.pictures]
    lines.append(_lesions(evaluation))
    return "\n".join(lines)


def _slice(evaluation: Evaluation, k: int) -> str:
    """A row of pictures: the sources, the fusion, and what it is to be compared with."""
    figures = []
    for name, view in evaluation.pictures[k].items():
        caption = f"{name}: {evaluation.sources[name].partition(':')[0]}" if name in "AB" else name
        over = _overlay(evaluation.flags[k]) if name == "fused" else ""
        figures.append(f"<figure>{_image(view, name)}{over}<figcaption>{escape(caption)}</figcaption></figure>")
    measured = evaluation.slices.get(k, {})
    few = ", ".join(f"{name.replace('_', ' ')} {measured[name]:.2f}" for name in _FEW if name in measured)
    return f"<div class='slice'><h3>Slice {k} <span class='faint'>{few}</span></h3>{''.join(figures)}</div>"


def _image(view: NDArray[np.uint8], name: str) -> str:
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(view)).save(content, "PNG", optimize=True)
    return picture(content.getvalue(), name)


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


_QUESTIONS = (
    ("transfer", LESION_KINDS, "Contrast kept of a lesion that one source shows (1: all, 0: none)"),
    ("shared", SHARED_KINDS, "Contrast kept of a lesion that both show, equally strong"),
    (
        "efficiency",
        LESION_KINDS,
        "Detectability: efficiency of an observer (1: nothing lost)",
    ),
    ("false_positives", LESION_KINDS, "Lesions seen where there are none (0.05 in the source)"),
)


def _lesions(evaluation: Evaluation) -> str:
    """What the method keeps of lesions, beside the maximum and the mean."""
    if not evaluation.lesions:
        return ""
    parts = ["<h3>Lesions put into these slices, and fused again</h3>"]
    noise = next(iter(evaluation.lesions.values())).noise
    parts.append(
        "<p class='faint'>a, b: in the first, in the second source. + bright, - dark. Noise of the observer study: "
        f"{noise[0]} in A, {noise[1]} in B, in the lesion's source alone. With so few lesions an efficiency is certain "
        "to about 0.2.</p>"
    )
    for what, kinds, title in _QUESTIONS:
        rows = {name: getattr(study, what) for name, study in evaluation.lesions.items()}
        if not any(rows.values()):
            parts.append(f"<p>{escape(title)}: too little tissue of these slices has room for such lesions.</p>")
            continue
        head = "".join(f"<th>{kind}</th>" for kind in kinds)
        lines = "".join(
            f"<tr><td>{escape(name)}</td>"
            + "".join(f"<td>{row[kind]:.2f}</td>" if kind in row else "<td></td>" for kind in kinds)
            + "</tr>"
            for name, row in rows.items()
        )
        parts.append(f"<table class='figures'><tr><th>{escape(title)}</th>{head}</tr>{lines}</table>")
    return "\n".join(parts)


def _glossary(names: list[str]) -> str:
    rows = (
        f"<tr><td><b>{name}</b></td><td>{escape(GLOSSARY[name].title)}</td>"
        f"<td>{escape(GLOSSARY[name].meaning)}</td><td>{escape(GLOSSARY[name].pitfall)}</td></tr>"
        for name in names
    )
    head = "<tr><th></th><th>name</th><th>what it measures</th><th>what it rewards wrongly</th></tr>"
    arrows = "↑ higher is meant to be better, ↓ lower, no arrow: neither."
    flags = "".join(
        f"<tr><td><svg width='12' height='12'><rect class='{name}' width='12' height='12'/></svg> <b>{name}</b></td>"
        f"<td>{escape(meaning)}</td></tr>"
        for name, meaning in FLAG_MEANINGS.items()
    )
    return (
        f"<h2>What the columns mean</h2><p>{arrows}</p><div class='scroll'><table>{head}{''.join(rows)}</table></div>"
        f"<h2>What the colours mean: look at the sources there</h2><table>{flags}</table>"
    )
