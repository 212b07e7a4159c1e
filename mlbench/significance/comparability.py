"""Which runs may be compared: what of a run is drawn, what is its row's, and what the runs of a column share.

All that compares runs asks here: tables, boards, the papers' tables, cards, `explain`, `compare` and the folder of
published results. Entries of an identity go by dotted names ("mask.params.keep"); those of the definitions begin with
"definitions.". What is named neither as drawn nor as a row's belongs to the column, so that an entry that identities
gain later keeps runs apart until somebody says that it need not.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from mlbench.annotation.relevance import mask_matters
from mlbench.errors import UsageError
from mlbench.evaluation.pretraining import pretraining_of
from mlbench.significance.crossed import Draw
from mlbench.store import SUBMITTED

if TYPE_CHECKING:
    from mlbench.protocol import Protocol

Record = Mapping[str, Any]

#: What a repetition draws anew. The keys of the runs that a run builds on are other with each draw, too.
DRAWN = ("repetition", "mask_seed", "mask.seed", "mask.sha256", "scores.")
#: What a row has for itself: the method, how it is set, trained and fed, what it was pretrained on, and the runs it
#: builds on.
ROW = ("method.", "train.", "inputs.", "uses.", "pretraining")
#: What of a column is known of submitted predictions; the rest they claim, or leave open.
KNOWN_OF_SUBMITTED = ("harness", "protocol", "protocol_sha256", "dataset.", "unspecified.", "definitions.")
#: What of a column may differ within a board, where rows are ranked among their like.
RANKED_APART = ("track", "backbone.", "head.", "precision", "definitions.")
#: What a record says something about, whatever the versions of code, data and protocol.
PLACE = ("protocol", "dataset.id", "track", "backbone.name", "head.name", "precision", "mask.process", "mask.params.")


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, under dotted names; lists are JSON text."""
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            flat |= flatten(entry, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(entry) if isinstance(entry, list | tuple) else entry
    return flat


def text_of(value: Any) -> str:
    """A setting as text; what is null and what older records do not have are one."""
    return "none" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def among(name: str, parts: Iterable[str]) -> bool:
    """Whether the dotted `name` is one of `parts`, or lies in one that ends in a dot."""
    return any(name.startswith(part) if part.endswith(".") else name == part for part in parts)


def is_submitted_name(method: str) -> bool:
    return method.startswith(SUBMITTED)


def settings_of(record: Record) -> dict[str, str]:
    """Text of all that decides a run's numbers but the draw, by dotted name; null entries are left out.

    The runs it builds on are not in it: `rows_of` compares these by their own settings.
    """
    return {name: text_of(value) for name, value in _entries(record).items() if value is not None and not _drawn(name)}


def column_of(record: Record) -> dict[str, str]:
    """Text of what all runs of a column share, by dotted name; null entries are left out.

    Data set and fingerprint, protocol and its hash, split, annotation process and its parameters, the reading of
    unspecified labels, track, backbone and its weights, the head where one was chosen, precision, selection,
    definitions, harness, and whatever else stands in the identity and is not a row's or drawn. Of submitted
    predictions, what is known.
    """
    found = {name: text for name, text in settings_of(record).items() if not _rows(name)}
    if not head_of(record):  # the method's own head is the row's
        found = {name: text for name, text in found.items() if not name.startswith("head.")}
    if is_submitted_name(record["identity"]["method"]["name"]):
        return {name: text for name, text in found.items() if among(name, KNOWN_OF_SUBMITTED)}
    return found


def place_of(record: Record) -> dict[str, str]:
    """The method and where it ran, whatever the versions (`PLACE`), by dotted name."""
    settings = settings_of(record)
    return {name: text for name, text in settings.items() if name == "method.name" or among(name, PLACE)}


def head_of(record: Record) -> str:
    """The head that was chosen for a run; empty for the linear one and for one that the method has by itself."""
    identity = record["identity"]
    name, own = str(identity.get("head", {}).get("name", "linear")), identity["method"].get("head", "linear")
    return "" if name == own else name


def supervision_of(record: Record) -> str:
    """What the method was given, as "observed+boxes"; empty for nothing."""
    return "+".join(record["identity"]["method"].get("supervision", ()))


def sees_mask(record: Record) -> bool:
    """Whether the draw of the mask can move the run's numbers; what cannot be told of a record is taken to be so."""
    identity = record["identity"]
    mask = identity.get("mask", {})
    submitted = is_submitted_name(identity["method"]["name"])
    supervision = ["observed"] if submitted else identity["method"].get("supervision", ["observed"])
    selection, uses = str(identity.get("selection")), bool(identity.get("uses"))
    return mask_matters(str(mask.get("process")), mask.get("params", {}), supervision, selection, uses)


def draw_of(record: Record) -> Draw:
    """(repetition, mask seed), by which runs of two methods are paired; (repetition, None) where no mask matters."""
    identity = record["identity"]
    return int(identity["repetition"]), int(identity["mask_seed"]) if sees_mask(record) else None


def by_draw(records: Iterable[Record], what: str) -> dict[Draw, Record]:
    """Runs of one row by draw. Those of one repetition that no mask decides are one run: that of the first mask.

    UsageError, beginning with `what`, for several runs of one repetition and mask seed.
    """
    found: dict[Draw, Record] = {}
    seen: dict[tuple[int, int], Record] = {}
    for record in sorted(records, key=lambda r: (r["identity"]["repetition"], r["identity"]["mask_seed"])):
        asked = record["identity"]["repetition"], record["identity"]["mask_seed"]
        if asked in seen:
            keys = keys_text([seen[asked]["key"], record["key"]])
            raise UsageError(f"{what} has several runs of one repetition and mask seed ({keys})")
        seen[asked] = record
        found.setdefault(draw_of(record), record)
    return found


def rows_of(records: Iterable[Record]) -> dict[str, str]:
    """The row of each run by key: runs of one text have the same settings, and build on runs of the same settings.

    A run whose base is not among the records stands with those whose bases are, unless these differ among themselves.
    """
    by_key = {record["key"]: record for record in records}

    @cache
    def own(key: str) -> str:
        return _digest(settings_of(by_key[key]))

    def base(key: str, above: tuple[str, ...] = ()) -> dict[str, str]:
        """Settings of the runs that `key` builds on, as far as they are known."""
        found = {}
        for name, used in by_key[key]["identity"].get("uses", {}).items():
            if used in by_key and used not in above:
                found[name] = own(used) + _digest(base(used, (*above, key)))
        return found

    bases = {key: base(key) for key in by_key}
    known: dict[tuple[str, str], set[str]] = {}
    for key, found in bases.items():
        for name, text in found.items():
            known.setdefault((own(key), name), set()).add(text)
    rows = {}
    for key in by_key:
        uses = {}
        for name in by_key[key]["identity"].get("uses", {}):
            choices = known.get((own(key), name), set())
            uses[name] = bases[key].get(name, next(iter(choices)) if len(choices) == 1 else "not here")
        rows[key] = own(key) + _digest(uses)
    return rows


def differing(
    records: Sequence[Record], entries: Callable[[Record], Mapping[str, str]]
) -> dict[str, dict[str, list[str]]]:
    """What of `entries` is not the same in all `records`: name to text to keys of the runs that have it.

    A run that has no such entry has "none"; beside our own runs, a submission is asked only for what is known of it.
    """
    submitted = [is_submitted_name(record["identity"]["method"]["name"]) for record in records]
    own = [(record["key"], entries(record), claims) for record, claims in zip(records, submitted, strict=True)]
    names: dict[str, None] = {}
    for _, texts, _ in own:
        names |= dict.fromkeys(texts)
    found: dict[str, dict[str, list[str]]] = {}
    for name in names:
        groups: dict[str, list[str]] = {}
        for key, texts, claims in own:
            if not claims or all(submitted) or among(name, KNOWN_OF_SUBMITTED):
                groups.setdefault(texts.get(name, "none"), []).append(key)
        if len(groups) > 1:
            found[name] = groups
    return found


def told_apart(found: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    """What `differing` found, in a line: "precision (fp32 and bf16), ..."; hashes are shortened."""
    return ", ".join(f"{name} ({' and '.join(text[:16] for text in groups)})" for name, groups in found.items())


def apart_notes(records: Sequence[Record]) -> list[str]:
    """A note for comparisons that are asked for though no table would make them; none where one would."""
    found = differing(records, column_of)
    return [f"No table has these runs in one column: they differ in {told_apart(found)}."] if found else []


def require_one(records: Sequence[Record], entries: Callable[[Record], Mapping[str, str]], what: str) -> None:
    """UsageError, beginning with `what`, unless `records` have the same `entries`; it names how to choose."""
    found = differing(records, entries)
    if found:
        raise mixed(what, found)


def mixed(what: str, found: Mapping[str, Mapping[str, Sequence[str]]]) -> UsageError:
    """The error for runs that differ in `found` (of `differing`): what differs, in which runs, how to keep one kind."""
    listed = "; ".join(
        f"{name}: {' | '.join(f'{text} (runs {keys_text(keys)})' for text, keys in groups.items())}"
        for name, groups in found.items()
    )
    # What a version or a hash tells apart is best chosen by what a person knows it by.
    name = min(found, key=lambda name: (among(name, ("protocol_sha256", "dataset.fingerprint", "mask.sha256")),))
    text = next(iter(found[name]))
    chosen = shlex.quote(f"{name}={text}")
    return UsageError(f"{what} mixes runs that differ in {listed}. Keep one kind with --where {chosen}")


def require_one_mask_a_seed(records: Sequence[Record], what: str) -> None:
    """UsageError unless runs of one mask seed saw one mask, and those of two saw two."""
    masked = [r for r in records if sees_mask(r) and not is_submitted_name(r["identity"]["method"]["name"])]
    seeds: dict[int, list[Record]] = {}
    for record in masked:
        seeds.setdefault(int(record["identity"]["mask_seed"]), []).append(record)
    first: dict[str, int] = {}
    for seed, same in seeds.items():
        require_one(same, _mask, f"{what}, mask seed {seed}")
        sha = _mask(same[0])["mask.sha256"]
        if sha != "none" and first.setdefault(sha, seed) != seed:
            raise UsageError(
                f"{what}: mask seeds {first[sha]} and {seed} are one and the same mask ({sha[:16]}), which was given "
                f"to the runs: they are no two draws. Keep one with --where mask_seed={seed}"
            )


def ranked_with(record: Record) -> tuple[str, ...]:
    """What runs share that are ranked together: the column, and what their methods and networks were given."""
    given = {"method.supervision": supervision_of(record), "pretraining": pretraining_of(record)}
    column = column_of(record) | given
    return tuple(f"{name} {text}" for name, text in sorted(column.items()))


def annotation_text(record: Record) -> str:
    """The annotation process with its parameters, as "partial, keep 0.1"."""
    mask = record["identity"].get("mask", {})
    params = [f"{name} {text_of(value)}" for name, value in mask.get("params", {}).items()]
    return ", ".join([str(mask.get("process", "unknown")), *params])


def as_written(record: Record) -> bool:
    """Whether the labels were hidden as the run's protocol is written: its process, with its parameters.

    False for a run that was given a mask of another process, or changed a parameter. True where that cannot be told:
    for submissions, for a protocol that cannot be read here, and for records of schema 1, which do not hold their
    protocol, where it is not, or not in this form, shipped here.
    """
    identity = record["identity"]
    mask = identity.get("mask", {})
    if is_submitted_name(identity["method"]["name"]) or "process" not in mask:
        return True
    place = identity["protocol"], identity["protocol_sha256"], identity["dataset"]["id"]
    if place not in _ANNOTATIONS:
        _ANNOTATIONS[place] = _annotation(record)
    own = _ANNOTATIONS[place]
    return own is None or own == (mask["process"], dict(mask.get("params", {})))


def keys_text(keys: Iterable[str]) -> str:
    """The first few of `keys`, short."""
    short = [key[:16] for key in keys]
    return ", ".join(short[:3]) + (f" and {len(short) - 3} more" if len(short) > 3 else "")


@cache
def shipped_protocol(name: str) -> Protocol | None:
    """The protocol of this name that is shipped here; None where there is none."""
    from mlbench.protocol import load_protocol

    try:
        return None if name.endswith(".toml") else load_protocol(name)
    except UsageError:
        return None


def _annotation(record: Record) -> tuple[str, dict[str, Any]] | None:
    from mlbench.annotation import check_process
    from mlbench.protocol import protocol_of

    identity = record["identity"]
    try:
        protocol = protocol_of(record) if "protocol" in record else shipped_protocol(identity["protocol"])
        if protocol is None or ("protocol" not in record and protocol.sha256 != identity["protocol_sha256"]):
            return None
        own = protocol.annotation_for(identity["dataset"]["id"])
        return own.process, check_process(own.process, own.params)
    except UsageError:  # a record may hold a protocol that no code here knows
        return None


#: By protocol, its hash and the data set: the same of many records, and a protocol takes its time to read.
_ANNOTATIONS: dict[tuple[str, str, str], tuple[str, dict[str, Any]] | None] = {}


@cache
def _drawn(name: str) -> bool:
    return among(name, (*DRAWN, "uses."))


@cache
def _rows(name: str) -> bool:
    return among(name, ROW)


def _entries(record: Record) -> dict[str, Any]:
    return flatten(record["identity"]) | flatten({"definitions": record["definitions"]})


def _mask(record: Record) -> dict[str, str]:
    return {"mask.sha256": text_of(record["identity"].get("mask", {}).get("sha256"))}


def _digest(entries: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
