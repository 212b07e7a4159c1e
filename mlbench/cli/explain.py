"""`mlbench explain`: every command calls one public function, imported when it is called."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from mlbench.cli.options import DATA, DATASET, STORE, comma_list
from mlbench.cli.output import JSON, answer, echo


@click.group("explain")
def explain_group() -> None:
    """Look at what trained models attend to, tell apart, withstand and cost."""


@explain_group.command("cam")
@click.argument("runs", nargs=-1)
@DATASET
@DATA
@click.option("--weights", type=click.Path(path_type=Path), help="Weights file the runs were given.")
@STORE
@click.option("--images", type=int, default=4, show_default=True, help="Number of test images.")
@click.option("--ids", help="These test images instead, separated by commas.")
@click.option(
    "--classes", help="These classes, by commas; one that holds a comma in double quotes [those each image has]."
)
@click.option("--picture", type=click.Path(path_type=Path), default=Path("cams.png"), show_default=True)
@click.option("--numbers", is_flag=True, help="Print numbers over all test images with boxes instead.")
@JSON
def explain_cam_command(runs: tuple[str, ...], numbers: bool, **given: Any) -> None:
    """Draw class activation maps of test images, one column a run [all runs of the store]."""
    if numbers:
        from mlbench.explain.attribution import attribution_table, attribution_text
        from mlbench.progress import Reporter

        for name in ("images", "picture", "ids", "classes"):
            del given[name]
        with Reporter() as reporter:
            rows = attribution_table(runs, **given, advance=reporter.counter("maps", "runs"))
        answer(lambda: attribution_text(rows), rows)
        return
    from mlbench.explain.cam import draw_cams

    for name in ("ids", "classes"):
        given[name] = comma_list(given[name])
    picture = draw_cams(runs, **given)
    answer(lambda: f"wrote {picture}", (), picture=picture)


@explain_group.command("attention")
@click.argument("runs", nargs=-1)
@click.option("--label", help="The class to draw; with --numbers, the only class to list.")
@click.option(
    "--views", default="flip,scale", show_default=True, help="flip, scale, rotate, shift; flip+scale combines."
)
@click.option("--picture", type=click.Path(path_type=Path), default=Path("attention.png"), show_default=True)
@click.option("--id", "sample", help="This test image [the first one with the class].")
@click.option("--numbers", is_flag=True, help="Print consistency error and changed decisions over all test images.")
@DATASET
@DATA
@click.option("--weights", type=click.Path(path_type=Path), help="Weights file the runs were given.")
@STORE
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@JSON
def explain_attention_command(
    label: str | None, views: str, picture: Path, sample: str | None, numbers: bool, **given: Any
) -> None:
    """Hold class activation maps of transformed test images against the transformed maps [all runs of the store].

    Seeds of one method, joined by commas, are averaged.
    """
    from mlbench.explain.attention import consistency_rows, consistency_text, draw_attention, models_of, views_of
    from mlbench.progress import Reporter

    if label is None and not numbers:
        raise click.UsageError("--label: expected the class to draw, or --numbers")
    chosen = views_of([name.strip() for name in views.split(",") if name.strip()])
    with Reporter() as reporter:
        models = models_of(**given, advance=reporter.counter("attention", "runs"))
        rows, drawn = [], None
        if label is None or numbers:
            rows = consistency_rows(models, chosen, label)
        else:
            drawn = draw_attention(list(models), label, chosen, picture, sample)
    if drawn is None:
        answer(lambda: consistency_text(rows), rows)
    else:
        answer(lambda: f"wrote {drawn}", (), picture=drawn)


@explain_group.command("metrics")
@click.argument("run")
@click.option("--published", metavar="PAPER/TABLE/ROW", help="Split the distance to this published number.")
@click.option("--value", type=float, help="Or to this number, in percent.")
@click.option("--metric", help="Of the published number: mAP, F1-C, top3/F1-C, ...")
@click.option("--definition", help="Whose code made --value: VAC, SRN, ASL, MLGCN, CSRA.")
@click.option("--protocol", help="Take another protocol's definitions for ours.")
@DATASET
@DATA
@STORE
@JSON
def explain_metrics_command(run: str, **given: Any) -> None:
    """Score a run's predictions (or a predictions file) under every published definition."""
    from mlbench.explain.metrics import explain_metrics

    answer(lambda: explain_metrics(run, **given))


@explain_group.command("labels")
@click.argument("runs", nargs=-1)
@STORE
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw the curves (PNG).")
@JSON
def explain_labels_command(runs: tuple[str, ...], store: Path | None, picture: Path | None) -> None:
    """Hold what methods rejected, corrected or added against the hidden truth, by epoch [of all runs of the store]."""
    from mlbench.explain.pseudo_labels import courses_text, draw_courses, label_courses
    from mlbench.store import all_runs, find_run

    rows = label_courses([find_run(prefix, store) for prefix in runs] or all_runs(store))
    answer(lambda: courses_text(rows), rows)
    if picture is not None:
        echo(f"wrote {draw_courses(rows, picture)}")


@explain_group.command("selection")
@click.argument("runs", nargs=-1)
@STORE
@JSON
def explain_selection_command(runs: tuple[str, ...], store: Path | None) -> None:
    """Compare the rules that select an epoch, from stored epochs [of all runs of the store]."""
    from mlbench.explain.selection import selection_table, selection_text
    from mlbench.store import all_runs, find_run

    records = [find_run(prefix, store) for prefix in runs] or all_runs(store)
    rows = selection_table(records)
    answer(lambda: selection_text(rows), rows)


@explain_group.command("top")
@click.argument("runs", nargs=-1, required=True)
@click.option("--k", type=int, default=3, show_default=True, help="Predictions of each run.")
@click.option("--images", type=int, default=6, show_default=True, help="Number of test images: where runs differ most.")
@click.option("--ids", help="These test images instead, separated by commas.")
@click.option("--picture", type=click.Path(path_type=Path), default=Path("top.png"), show_default=True)
@DATASET
@DATA
@STORE
@JSON
def explain_top_command(runs: tuple[str, ...], images: int, ids: str | None, picture: Path, **given: Any) -> None:
    """Draw test images with the top predictions of each run under them, right and wrong ones marked."""
    from mlbench.explain.top import draw_top, top_predictions

    top = top_predictions(runs, **given)
    drawn = draw_top(top, picture, images, comma_list(ids))
    means = top.right().mean(axis=1)
    rows = [{"run": name, "k": given["k"], "right": mean} for name, mean in zip(top.names, means, strict=True)]
    answer(lambda: f"{top.text()}\nwrote {drawn}", rows, picture=drawn)


@explain_group.command("gains")
@click.argument("run")
@click.argument("run2")
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw the bars (PNG).")
@STORE
@JSON
def explain_gains_command(run: str, run2: str, picture: Path | None, store: Path | None) -> None:
    """List the gain in average precision of each class, RUN2 minus RUN; seeds of a side are joined by commas."""
    from mlbench.explain.gains import class_gains, draw_gains

    gains = class_gains(run, run2, store)
    rows = [{**vars(gain), "gain": gain.mean, "deviation": gain.deviation} for gain in gains.classes]
    answer(gains.text, rows, title=gains.title, undefined=gains.undefined, notes=gains.notes)
    if picture is not None:
        echo(f"wrote {draw_gains(gains, picture)}")


@explain_group.command("corruptions")
@click.argument("runs", nargs=-1)
@click.option("--only", help="These corruptions, separated by commas [all of the set].")
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw the curves (PNG).")
@DATASET
@DATA
@click.option("--weights", type=click.Path(path_type=Path), help="Weights file the runs were given.")
@STORE
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@JSON
def explain_corruptions_command(runs: tuple[str, ...], only: str | None, picture: Path | None, **given: Any) -> None:
    """Score runs on corrupted test images, severities 1 to 5; seeds of a side are joined by commas [whole store]."""
    from mlbench.explain.robustness import draw_robustness, measure_robustness
    from mlbench.progress import Reporter

    with Reporter() as reporter:
        counter = partial(reporter.counter, unit="severities")
        found = measure_robustness(runs, corruptions=comma_list(only), advance=counter, **given)
    answer(found.text, found.rows(), notes=found.notes)
    if picture is not None:
        echo(f"wrote {draw_robustness(found, picture)}")


@explain_group.command("cost")
@click.argument("runs", nargs=-1)
@click.option("--batch", "batch_size", type=int, default=16, show_default=True, help="Images a timed batch.")
@click.option("--repeats", type=int, default=7, show_default=True, help="Timed batches, at least 7.")
@DATASET
@DATA
@click.option("--weights", type=click.Path(path_type=Path), help="Weights file the runs were given.")
@STORE
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@JSON
def explain_cost_command(runs: tuple[str, ...], **given: Any) -> None:
    """List parameters, operations and images a second at inference, training time, teachers beside [whole store]."""
    from mlbench.explain.cost import costs_text, measure_costs
    from mlbench.progress import Reporter

    with Reporter() as reporter:
        costs = measure_costs(runs, **given, advance=reporter.counter("timing", "turns"))
    answer(lambda: costs_text(costs), costs)
