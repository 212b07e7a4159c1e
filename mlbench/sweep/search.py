"""Hyperparameter search by Optuna: on validation data only, the same number of trials for each method.

A trial is a run of the store, so a search that was stopped finds its finished trials again, and goes on with the
others from their checkpoints. Test scores are never read.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlbench.errors import MlbenchError, UsageError, unknown
from mlbench.evaluation.selection import RULES
from mlbench.locks import Busy, locked
from mlbench.methods import Method
from mlbench.models.head_choice import HEADS, LINEAR
from mlbench.progress import Reporter
from mlbench.runner.execute import Options, run
from mlbench.runner.plan import Request, Run, resolve
from mlbench.seeds import derive
from mlbench.settings import parse_value, to_plain

#: Every method's learning rate is searched too, where it trains.
LEARNING_RATE = ("log", 1e-5, 1e-2)
#: Seconds between two attempts at a trial that another process is running.
_LOOK_AGAIN = 2.0


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting tried: the changes, and its validation score in percent; None where the run failed, for `why`."""

    number: int
    changes: Mapping[str, Any]
    score: float | None
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
    """The trials of one method, and the table its chosen settings are kept in."""

    method: str
    dataset: str
    track: str
    metric: str
    seed: int
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The first of the best trials; MlbenchError if none could be finished."""
        done = [trial for trial in self.trials if trial.score is not None]
        if not done:
            why = next((f"; the last: {trial.why}" for trial in reversed(self.trials) if trial.why), "")
            raise MlbenchError(f"'{self.method}': none of {len(self.trials)} trials could be finished{why}")
        return max(done, key=lambda trial: (trial.score, -trial.number))

    def text(self) -> str:
        """A table of ``baselines/*.toml``."""
        best = self.best
        failed = sum(trial.score is None for trial in self.trials)
        lines = [f"[{self.method}.{_key(self.dataset)}.{self.track}]"]
        lines += [f'"{name}" = {json.dumps(value)}' for name, value in best.changes.items()]
        tried = f"{len(self.trials)} settings tried on validation (Optuna TPE), seed {self.seed}"
        tried += f", {failed} of them failed" if failed else ""
        return "\n".join([*lines, f'source = "{tried}: validation {self.metric} {best.score:.2f}"'])


def search_space(
    method: type[Method], changed: Mapping[str, tuple] | None = None, head: str = LINEAR
) -> dict[str, tuple]:
    """What is searched for `method`: its learning rate, and every hyperparameter that declares a `search`.

    So of those of `head`, as ``head.KEY``.

    Parameters
    ----------
    changed : spaces by name, in place of those declared; an empty tuple takes a name out. Names that `method` does not
        have are left out, so that several methods can share it.

    Raises
    ------
    UsageError
        If there is nothing to search, or a space is not ("log" | "linear", low, high) or ("choice", a, b, ...).
    """
    declared = method.declared() | {f"head.{key}": hyper for key, hyper in HEADS[head].hyperparameters.items()}
    space = {"train.lr": LEARNING_RATE} | {name: hyper.search for name, hyper in declared.items() if hyper.search}
    space |= {name: what for name, what in (changed or {}).items() if name in declared or name.startswith("train.")}
    space = {name: what for name, what in space.items() if what}
    for name, (kind, *values) in space.items():
        where = f"'{method.name}' {name}: search = {(kind, *values)}"
        if kind not in ("log", "linear", "choice"):
            raise unknown("kind of search space", kind, ("log", "linear", "choice"), where)
        if kind == "choice":
            if not values:
                raise UsageError(f"{where}: expected at least one choice")
        elif len(values) != 2 or not all(isinstance(end, (int, float)) for end in values) or not values[0] < values[1]:
            raise UsageError(f"{where}: expected a low end and a high one")
        elif kind == "log" and values[0] <= 0:
            raise UsageError(f"{where}: a logarithmic scale begins above 0")
    if not space:
        raise UsageError(f"'{method.name}' has nothing to search")
    return space


def parse_space(texts: Sequence[str]) -> dict[str, tuple]:
    """Read ``("train.lr=log 1e-4 1e-2", "delta=choice 0.1 0.2", "gamma=")``; the last takes a name out."""
    found: dict[str, tuple] = {}
    for text in texts:
        name, equals, declared = text.partition("=")
        kind, *values = declared.split() or [""]
        if not equals or bool(kind) != bool(values):
            raise UsageError(
                f"--space {text}: expected KEY=log LOW HIGH, KEY=linear LOW HIGH, KEY=choice A B ..., or KEY= for none"
            )
        found[name.strip()] = (kind, *map(parse_value, values)) if kind else ()
    return found


def search(
    methods: Sequence[str],
    request: Request,
    *,
    store: Path,
    trials: int = 20,
    space: Mapping[str, tuple] | None = None,
    device: str = "auto",
    quiet: bool = False,
    told: Callable[[Found], None] | None = None,
) -> list[Found]:
    """Search the settings of `methods` under `request`, `trials` runs each; the first is what a plain run would take.

    Parameters
    ----------
    request : protocol, data and seed; its method is replaced, its `changes` hold in all trials.
    space : as `changed` of `search_space`.
    told : called with each method's result.

    Raises
    ------
    UsageError
        Optuna is not installed; the protocol selects without validation data; a method has nothing to search.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise UsageError("search needs optuna: pip install 'mlbench-multilabel[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if trials < 1:
        raise UsageError(f"--trials {trials}: expected at least 1")
    runs = [resolve(dataclasses.replace(request, method=method)) for method in methods]
    spaces = [_space_for(one, space or {}) for one in runs]  # all of it is checked before the first trial
    results = []
    for one, searched in zip(runs, spaces, strict=True):
        folder = store / "search"
        folder.mkdir(parents=True, exist_ok=True)
        # What decides a trial decides the study: other settings or another space begin another one.
        name = f"{one.method.name}-{one.dataset.id}-{derive(one.key, json.dumps(searched, sort_keys=True)):016x}"
        with (
            locked(
                folder / f"{name}.lock", wait=False, busy=f"'{one.method.name}' is being searched by another process"
            ),
            Reporter(quiet) as reporter,
        ):
            backend = JournalFileBackend(str(folder / f"{name}.journal"))
            study = optuna.create_study(
                storage=JournalStorage(backend),
                study_name=name,
                direction="maximize",
                load_if_exists=True,
            )
            found = _Search(one, searched, study, Options(store, resume=True, device=device, quiet=True), reporter)
            results.append(found.go(trials))
        if told is not None:
            told(results[-1])
    return results


def _space_for(one: Run, changed: Mapping[str, tuple]) -> dict[str, tuple]:
    """The space of `one`'s method, widened where needed so that what a plain run takes lies in it."""
    if not RULES[one.selection]:
        raise UsageError(
            f"protocol '{one.protocol.name}' selects by '{one.selection}', without validation data to search on"
        )
    space = {}
    for name, (kind, *values) in search_space(one.method, changed, one.head.name).items():
        default = _default(one, name)
        if kind == "choice":
            space[name] = (kind, *values, *([] if default in values else [default]))
        else:
            space[name] = (kind, min(values[0], default), max(values[1], default))
        if kind == "log" and default <= 0:
            raise UsageError(f"'{one.method.name}' {name} = {default}: does not lie on a logarithmic scale")
    return space


def _default(one: Run, name: str) -> Any:
    """What a plain run takes for `name`."""
    if not name.startswith("train."):
        return {**one.hyper, **{f"head.{key}": value for key, value in one.head.hyper.items()}}[name]
    settings = to_plain(one.train)
    if name.removeprefix("train.") not in settings:
        raise unknown("training setting", name, [f"train.{key}" for key in settings], "--space")
    return settings[name.removeprefix("train.")]


class _Search:
    """Asks Optuna for settings, runs them, and tells it how they did."""

    def __init__(self, one: Run, space: Mapping[str, tuple], study: Any, options: Options, reporter: Reporter) -> None:
        self.run, self.space, self.study, self.options, self.reporter = one, space, study, options, reporter
        self.metric = RULES[one.selection]

    def go(self, budget: int) -> Found:
        """Do what is left of `budget` trials."""
        if not self.study.trials:
            self.study.enqueue_trial({name: _default(self.run, name) for name in self.space})
        while (trial := self._next(budget)) is not None:
            self._try(trial)
        one = self.run
        tried = [
            Trial(trial.number, trial.user_attrs.get("changes", {}), trial.value, trial.user_attrs.get("why", ""))
            for trial in self.study.trials[:budget]
        ]
        return Found(one.method.name, one.dataset.id, one.track, self.metric, one.seed, tuple(tried))

    def _next(self, budget: int) -> Any:
        """The trial a stopped search was at, or a new one; None where the budget is spent."""
        from optuna.samplers import TPESampler
        from optuna.trial import Trial as Open
        from optuna.trial import TrialState

        open_trials = self.study.get_trials(states=(TrialState.RUNNING,))
        ended = self.study.get_trials(states=(TrialState.COMPLETE, TrialState.FAIL))
        number = open_trials[0].number if open_trials else len(ended)
        if number >= budget:
            return None
        # Seeded by the trial's number, so that a search that was stopped goes on as it would have.
        seed = derive("search", self.run.method.name, self.run.dataset.id, self.run.seed, number) % 2**32
        self.study.sampler = TPESampler(seed=seed, n_startup_trials=5)
        return Open(self.study, open_trials[0]._trial_id) if open_trials else self.study.ask()

    def _try(self, trial: Any) -> None:
        changes = {name: self._suggest(trial, name) for name in self.space}
        trial.set_user_attr("changes", changes)
        request = dataclasses.replace(
            self.run.request, method=self.run.method.name, changes={**self.run.request.changes, **changes}
        )
        shown = ", ".join(f"{name} = {value}" for name, value in changes.items())
        title = f"{self.run.method.name} trial {trial.number}: {shown}"
        try:
            score = validation_score(self._run(request, title), self.metric)
            if not math.isfinite(score):
                raise MlbenchError(f"validation {self.metric} is {score}")
        except Exception as error:  # counts as a trial, whatever it ended with: every method has the same number
            why = " ".join(
                (str(error) if isinstance(error, MlbenchError) else f"{type(error).__name__}: {error}").split()
            )
            trial.set_user_attr("why", why)
            self.study.tell(trial, state=_failed())
            self.reporter.say(f"{title}: failed ({why})")
            return
        self.study.tell(trial, score)
        self.reporter.say(f"{title}: validation {self.metric} {score:.2f}")

    def _run(self, request: Request, title: str) -> dict[str, Any]:
        """The record of `request`; if another process is running it, once that is done or dead."""
        told = False
        while True:
            try:
                return run(request, self.options)
            except Busy as busy:
                if not told:
                    self.reporter.say(f"{title}: waiting ({busy})")
                told = True
                time.sleep(_LOOK_AGAIN)

    def _suggest(self, trial: Any, name: str) -> Any:
        kind, *values = self.space[name]
        if kind == "choice":
            return trial.suggest_categorical(name, values)
        if isinstance(_default(self.run, name), int):
            return trial.suggest_int(name, *map(int, values), log=kind == "log")
        value = trial.suggest_float(name, *map(float, values), log=kind == "log")
        return float(f"{value:.3g}") if trial.number else value  # three digits are enough, and can be read


def validation_score(record: Mapping[str, Any], metric: str) -> float:
    """Percent: `metric` on validation in the epoch the record's rule selected; test numbers are not looked at.

    NaN where it is undefined.
    """
    chosen = record["selected"]
    for row in record["epochs"]:
        if (row["phase"], row["epoch"]) == (chosen["phase"], chosen["epoch"]):
            value = row["val"][metric]
            break
    else:
        value = record["results"]["val"][metric]  # a method that trains nothing
    return math.nan if value is None else float(value)


def _failed() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL


def _key(name: str) -> str:
    """`name` as a key of TOML."""
    return name if name.replace("-", "").replace("_", "").isalnum() else json.dumps(name)
