"""`mlbench report`: calls one public function, imported when it is called."""

from __future__ import annotations

from pathlib import Path

import click

from mlbench.cli.options import PLACES, STORE, parse_places, to_read
from mlbench.cli.output import JSON, answer


@click.command("report")
@click.argument("names", nargs=-1)
@STORE
@click.option("--to", type=click.Path(path_type=Path), help="Folder to write NAME.md into [print].")
@PLACES
@JSON
def report_command(names: tuple[str, ...], store: Path | None, to: Path | None, places: tuple[str, ...]) -> None:
    """Answer questions about the board from all its draws [all]: definitions, seeds_and_masks, tracks,
    worth_of_labels, classes.
    """
    from mlbench.report.questions import reports, write_reports

    data = parse_places(places)
    store = to_read(store)
    if to is None:
        told = reports(names, store, data)
        answer(lambda: "\n\n".join(told.values()), [{"report": name, "text": text} for name, text in told.items()])
        return
    written = list(write_reports(to, names, store, data))
    answer(lambda: "\n".join(f"wrote {path}" for path in written), [{"file": path} for path in written])
