"""The page of a run: curves, metrics, settings, provenance."""

from __future__ import annotations

from pathlib import Path

from mlbench.report.at_hand import AtHand
from mlbench.report.site.charts import Line, line_chart
from mlbench.report.site.curves import curves
from mlbench.report.site.evidence import evidence
from mlbench.report.site.rendering import render
from mlbench.report.site.rows import Record
from mlbench.store import is_submitted


def run_page(record: Record, here: AtHand, pictures: bool, weights: Path | None) -> str:
    found = evidence(record, here, pictures, weights)
    metric = str(record["definitions"].get("headline", "mAP"))
    figures = [
        line_chart(f"{metric} by epoch", curves([record], metric), "epoch", f"{metric} (%)"),
        line_chart(
            "Training loss",
            [Line("loss", [(i, e.get("loss")) for i, e in enumerate(record["epochs"], start=1)])],
            "epoch",
            "loss",
        ),
        found.curves,
    ]
    return render(
        "run.html",
        "../",
        record=record,
        origin_name="submitted" if is_submitted(dict(record)) else "reproduced",
        headline=metric,
        value=record["results"].get("test", {}).get(metric),
        metrics=list(dict.fromkeys(name for values in record["results"].values() for name in values)),
        classes=list(dict.fromkeys(name for values in record["per_class"].values() for name in values)),
        figures=[figure for figure in figures if figure],
        evidence=found,
    )
