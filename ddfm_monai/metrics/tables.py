"""Evaluations as a terminal table, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from ddfm_monai._version import __version__
from ddfm_monai.metrics.files import Evaluation, mean_metrics
from ddfm_monai.metrics.glossary import GLOSSARY

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["check_sentence", "csv_text", "json_text", "terminal_table"]


def terminal_table(evaluations: list[Evaluation]) -> Table:
    """Metrics as rows; one column for the fusion (mean over the pairs), one for each baseline."""
    from rich.table import Table

    columns = {"fused": mean_metrics([e.metrics for e in evaluations])}
    for name in evaluations[0].baselines:
        columns[name] = mean_metrics([e.baselines[name] for e in evaluations])
    count = f"mean of {len(evaluations)} pairs" if len(evaluations) > 1 else evaluations[0].name
    table = Table(title=count)
    table.add_column("metric")
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("better")
    for name in columns["fused"]:
        cells = (f"{values[name]:.3f}" if name in values else "" for values in columns.values())
        table.add_row(name, *cells, GLOSSARY[name].better or "neither")
    return table


def check_sentence(shares: dict[str, float]) -> str:
    """What `check_fusion` found, for people."""
    kinds = ", ".join(f"{name} {100 * share:.2f} %" for name, share in shares.items() if name != "flagged")
    return f"check: {100 * shares['flagged']:.2f} % of the head flagged ({kinds})."


def csv_text(evaluations: list[Evaluation]) -> str:
    """One line per pair, one column per metric, empty where a pair does not have it."""
    names = dict.fromkeys(name for evaluation in evaluations for name in evaluation.metrics)
    text = io.StringIO()
    writer = csv.DictWriter(text, ["name", *names], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"name": evaluation.name, **evaluation.metrics} for evaluation in evaluations)
    return text.getvalue()


def json_text(evaluations: list[Evaluation]) -> str:
    """The mean over all pairs, and for each pair its metrics, those of the baselines, and those of each slice."""
    pairs = [
        {
            "name": evaluation.name,
            "metrics": evaluation.metrics,
            "baselines": evaluation.baselines,
            "slices": {str(index): metrics for index, metrics in evaluation.slices.items()},
            "check": evaluation.check,
            "sources": evaluation.sources,
            "pictures": list(evaluation.pictures),
            "lesions": {name: asdict(study) for name, study in evaluation.lesions.items()},
            "notes": evaluation.notes,
        }
        for evaluation in evaluations
    ]
    content = {
        "software": f"ddfm-monai {__version__}",
        "mean": mean_metrics([evaluation.metrics for evaluation in evaluations]),
        "pairs": pairs,
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
