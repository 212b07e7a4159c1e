"""The verbs of the command line for Python: `mlbench.run`, `mlbench.score`, `mlbench.table`, `mlbench.Results`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlbench.paths import store_dir

if TYPE_CHECKING:
    import pandas as pd

    from mlbench.methods import Method
    from mlbench.report.tables import Table

Record = dict[str, Any]


def run(
    protocol: str,
    method: str | type[Method],
    dataset: str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    store: str | Path | None = None,
    resume: bool = False,
    again: bool = False,
    quiet: bool = True,
    device: str = "auto",
    **request: Any,
) -> Record:
    """Train `method` under `protocol` and score it; a finished run is read from the store.

    Parameters
    ----------
    protocol, dataset : names, or paths of ``.toml`` files; without `dataset` the embedded one.
    method : a registered name, or the class itself.
    settings : hyperparameters and training settings, as ``{"delta": 0.2, "train.lr": 1e-4}``.
    store : folder of runs [./runs or $MLBENCH_RUNS].
    request : the other fields of `mlbench.runner.plan.Request`: data_root, track, backbone, weights, head, seed,
        mask_seed, mask, epochs, precision.

    Returns
    -------
    The record: ``record["results"]["test"]["mAP"]`` in percent, ``record["key"]``, settings, provenance.

    Raises
    ------
    UsageError : a name or setting that is not known. DataError : data that does not hold. Both say what and where.
    """
    from mlbench.runner.execute import Options
    from mlbench.runner.execute import run as execute
    from mlbench.runner.plan import EMBEDDED, Request

    paths: dict[str, Any] = {
        name: Path(request.pop(name)) for name in ("data_root", "weights") if request.get(name) is not None
    }
    asked = Request(protocol, method, dataset or EMBEDDED, changes=dict(settings or {}), **paths, **request)
    where = Path(store) if store is not None else store_dir()
    return execute(asked, Options(where, resume=resume, again=again, quiet=quiet, device=device))


def score(run: str | Mapping[str, Any], store: str | Path | None = None, **given: Any) -> dict[str, float | None]:
    """Numbers of a run computed again from its stored predictions, by name, in percent.

    `run` is a record or the first characters of its key; `given` are data_root, protocol, dataset and metrics of
    `mlbench.evaluation.rescore.score`.
    """
    from mlbench.evaluation.rescore import score as rescore

    key = run if isinstance(run, str) else str(run["key"])
    if given.get("data_root") is not None:
        given["data_root"] = Path(given["data_root"])
    return rescore(key, _path(store), **given).results


def table(store: str | Path | None = None, metric: str = "mAP", **given: Any) -> Table:
    """Methods by data sets, means and spread and who may be the best; `given` as for `mlbench.report.board.table`.

    ``to_markdown()`` is the text, ``cells`` a frame with a row for each cell.
    """
    from mlbench.report.board import table as board

    if given.get("data_root") is not None:
        given["data_root"] = Path(given["data_root"])
    return board(_path(store), metric, **given)


class Results:
    """The finished runs of a store, or of a folder of published records.

    Parameters
    ----------
    store : the folder [./runs or $MLBENCH_RUNS].

    Raises
    ------
    DataError : when they are read and one of the records is broken.
    """

    def __init__(self, store: str | Path | None = None) -> None:
        self.store = _path(store) or store_dir()

    def records(self, **filters: str) -> list[Record]:
        """Records, oldest first; `filters` as of ``mlbench list runs``: method, dataset, protocol, track, ..."""
        from mlbench.errors import DataError
        from mlbench.store import find_records

        found, problems = find_records(self.store, **filters)
        if problems:
            raise DataError(f"{len(problems)} broken records in {self.store}: {problems[0]}")
        return sorted(found, key=lambda record: str(record["provenance"]["started"]))

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records())

    def __len__(self) -> int:
        return len(self.records())

    def to_pandas(self, metrics: Sequence[str] | None = None, **filters: str) -> pd.DataFrame:
        """A row for each run: key, method, dataset, protocol, track, seed, mask_seed, and numbers in percent.

        `metrics` are names of the test part's numbers; without them, all that any of the runs has.
        """
        import pandas as pd

        rows = []
        for record in self.records(**filters):
            identity, test = record["identity"], record["results"]["test"]
            about = {
                "key": record["key"],
                "method": identity["method"]["name"],
                "dataset": identity["dataset"]["id"],
                "protocol": identity["protocol"],
                "track": identity["track"],
                "seed": identity["repetition"],
                "mask_seed": identity["mask_seed"],
                "started": record["provenance"]["started"],
                "seconds": record["provenance"].get("seconds"),
            }
            rows.append(about | (dict(test) if metrics is None else {name: test.get(name) for name in metrics}))
        return pd.DataFrame(rows)


def _path(store: str | Path | None) -> Path | None:
    return None if store is None else Path(store)
