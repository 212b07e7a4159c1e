"""`results migrate`: records of an earlier harness brought to this one without a new run, where that can be proved.

The keys of a harness are made anew. What decided a record's numbers is compared with what is here: the labels (the
earlier fingerprint of the data set), the mask (drawn again), the pixels (read again), the protocol's hash as it was.
Only a record that all of these prove is brought over; any other is listed with the reason, and stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlbench
from mlbench.annotation import mask_matters
from mlbench.datasets import load_dataset
from mlbench.datasets.base import Dataset, SubsetImages
from mlbench.datasets.recorded import legacy_fingerprint
from mlbench.errors import DataError, MlbenchError, UsageError
from mlbench.evaluation.consistency import contradictions
from mlbench.evaluation.rescore import differing, score_on
from mlbench.files import link_files, remove_folder
from mlbench.inputs.pixels import pixels_sha256
from mlbench.protocol import Protocol, legacy_sha256, load_protocol
from mlbench.provenance import utc_text
from mlbench.registry import load_method
from mlbench.repository.results import Report
from mlbench.runner.data import make_parts
from mlbench.runner.side import side_identity
from mlbench.store import RECORD_FILE, find_records, is_submitted, published_name, run_dir, run_key, seal, write_record
from mlbench.store.journal import change_together, finish
from mlbench.store.replications import spread_text, starts_of, with_replications
from mlbench.store.schema import dump_record

Record = dict[str, Any]


def migrate(
    folder: Path,
    data: Mapping[str, str] | None = None,
    known: Sequence[Path] = (),
    store: Path | None = None,
    dry_run: bool = False,
    advance: Callable[[int, int], None] | None = None,
) -> Report:
    """Bring the records of an earlier harness in `folder` (published records, or a store) to this one.

    Records that are one run under this harness (other masks that a method did not see) become one, which names the
    keys of all of them; numbers of them that differ stay as its replications. Nothing is dropped: what is not brought
    over is a problem of the report and stays untouched. A second call goes on with what remains.

    Parameters
    ----------
    data : where data sets are that the catalogue cannot find by itself: id to a description (``.toml``), to the folder
        of a catalogue set's files, or to another name in the catalogue.
    known : further folders whose records those here build on, brought over before.
    store : the store with the predictions of the records, if there is one: they are scored again then.
    dry_run : say what would be done and change nothing.
    advance : told how many records of how many are done.
    """
    if not dry_run:
        finish(folder)
    records, problems = find_records(folder)
    old = [record for record in records if record["identity"]["harness"] < mlbench.HARNESS_VERSION]
    report = Report(problems=list(problems))
    for _ in range(len(records) - len(old)):
        report.count("of this harness already")
    kept = {record["key"]: record for record in records if record["identity"]["harness"] == mlbench.HARNESS_VERSION}
    new_keys = _brought(kept.values())
    for place in known:
        new_keys |= _brought(find_records(place)[0])
    found: dict[str, list[tuple[Record, Record]]] = {}
    witness = _Witness(dict(data or {}), store)
    for number, record in enumerate(_bases_first(old)):
        try:
            brought = witness.bring(record, new_keys)
        except MlbenchError as error:
            report.problems.append(f"{published_name(record)}: stays as it is: {error}")
        else:
            new_keys[record["key"]] = brought["key"]
            found.setdefault(brought["key"], []).append((record, brought))
        if advance is not None:
            advance(number + 1, len(old))
    changed, replaced = {}, {}
    for key, pairs in found.items():
        report.counts["brought over"] = report.counts.get("brought over", 0) + len(pairs)
        changed[key] = one = _one(kept.get(key), pairs)
        replaced[key] = [record for record, _ in pairs]
        if len(one["provenance"]["migrated"]["from"]) > 1:
            merged = len(one["provenance"]["migrated"]["from"])
            same = f"; {spread_text(one)}" if one.get("replications") else ", of the same numbers"
            report.notes.append(f"{published_name(one)}: {merged} records are this one run{same}")
    if not dry_run:
        _write(folder, changed, replaced)
    return report


class _Witness:
    """What is here, to hold records against; each data set is loaded, each mask drawn and each part hashed once."""

    def __init__(self, places: Mapping[str, str], store: Path | None) -> None:
        self.places, self.store = places, store
        self._datasets: dict[str, Dataset | MlbenchError] = {}
        self._masks: dict[str, tuple[str, dict[str, int]]] = {}
        self._pixels: dict[tuple[str, str, int], str] = {}

    def bring(self, record: Record, new_keys: Mapping[str, str]) -> Record:
        """`record` as one of this harness; MlbenchError, which says why, where that is not proved."""
        if is_submitted(record):
            raise UsageError("it is a submission: submit its predictions again")
        denied = contradictions(record)
        if denied:
            raise DataError(f"it contradicts itself: {denied[0]}")
        identity = record["identity"]
        protocol = self._protocol(record)
        data = self._dataset(identity["dataset"])
        proved = {
            "protocol": f"'{protocol.name}' has the recorded hash of harness {identity['harness']}",
            "labels": f"'{data.id}' has the recorded fingerprint of harness {identity['harness']}",
            "mask": self._mask(data, protocol, identity),
            "pixels": self._read(data, record),
        }
        scored = self._predictions(record, data, protocol)
        proved |= {"predictions": scored} if scored else {}
        brought = {
            **record,
            "identity": _identity(record, data, protocol, new_keys),
            "protocol": protocol.plain(data.id),
            "definitions": protocol.definitions(data.id),
        }
        brought["key"] = run_key(brought["identity"])
        brought["provenance"] = {
            **record["provenance"],
            "starts": starts_of(record),
            "migrated": {
                "from": [record["key"]],
                "harness": identity["harness"],
                "proved": proved,
                "at": utc_text(datetime.now(UTC)),
                "mlbench": mlbench.__version__,
            },
        }
        return seal(brought)

    def _protocol(self, record: Record) -> Protocol:
        identity = record["identity"]
        name = identity["protocol"]
        protocol = load_protocol(name)
        if legacy_sha256(name) != identity["protocol_sha256"]:
            raise DataError(f"protocol '{name}' here is not the one it was made under (other hash)")
        own = protocol.definitions(identity["dataset"]["id"])
        counted, recorded = (
            {key: value for key, value in table.items() if value is not None} for table in (own, record["definitions"])
        )
        if counted != recorded:
            raise DataError(f"its numbers follow other definitions than those of protocol '{name}' here")
        if identity["unspecified"] != recorded["unspecified"]:
            raise DataError("its identity and its definitions read unspecified labels in two ways")
        return protocol

    def _dataset(self, recorded: Mapping[str, str]) -> Dataset:
        name = recorded["id"]
        if name not in self._datasets:
            try:
                self._datasets[name] = self._load(name)
            except MlbenchError as error:
                self._datasets[name] = error
        data = self._datasets[name]
        if isinstance(data, MlbenchError):
            raise DataError(f"its data set is not here: {data}")
        if (data.id, data.version) != (name, recorded["version"]):
            raise DataError(f"data set '{data.id}' version {data.version} here, version {recorded['version']} there")
        if legacy_fingerprint(data) != recorded["fingerprint"]:
            raise DataError(f"data set '{name}' here has other labels or images (fingerprint of the earlier harness)")
        return data

    def _load(self, name: str) -> Dataset:
        place = self.places.get(name, name)
        if place.endswith(".toml"):
            return load_dataset(place)
        return load_dataset(name, Path(place)) if Path(place).is_dir() else load_dataset(place)

    def _mask(self, data: Dataset, protocol: Protocol, identity: Mapping[str, Any]) -> str:
        """How the mask, and with it the cut of the parts, is shown to be the recorded one."""
        mask = identity["mask"]
        drawn = [data.id, protocol.name, mask["process"], mask["params"], identity["mask_seed"]]
        place = json.dumps(drawn, sort_keys=True)
        if place not in self._masks:
            if mask["process"] != protocol.annotation_for(data.id).process:
                raise DataError(f"its mask ('{mask['process']}') was given in a file, and cannot be drawn again")
            parts, again = make_parts(data, protocol, identity["mask_seed"], mask["params"])
            self._masks[place] = again.sha256, {name: len(part) for name, part in parts.items()}
        sha256, sizes = self._masks[place]
        if sha256 != mask["sha256"]:
            raise DataError("its mask is not the one drawn here")
        if {name: identity["split"].get(name) for name in sizes} != sizes:
            raise DataError("its parts have other sizes than those cut here")
        return "drawn again, with the recorded hash"

    def _read(self, data: Dataset, record: Record) -> str:
        """How the pixels are shown to be those that were read."""
        identity, hashes = record["identity"], record["provenance"]["pixels_sha256"]
        for name, sha256 in hashes.items():
            split, _, side = name.partition("@")
            place = data.id, split, int(side or identity["train"]["image_size"])
            if split not in data.splits:
                raise DataError(f"its pixels are of part '{split}', which the data set here does not have")
            if place not in self._pixels:
                self._pixels[place] = pixels_sha256(data.splits[split], place[2])
            if self._pixels[place] != sha256:
                raise DataError(f"its pixels of part '{name}' are not those of the images here")
        if hashes:
            return f"read again, with the recorded hashes ({', '.join(sorted(hashes))})"
        if in_memory(data):
            return "no hash was recorded; the earlier fingerprint is of these images' content"
        if not record["phases"] and not identity.get("uses"):
            return "no image was read"
        raise DataError("no hash of its pixels was recorded, so that it may be of other images under the same names")

    def _predictions(self, record: Record, data: Dataset, protocol: Protocol) -> str:
        stored = record["predictions"].get("test")
        path = run_dir(self.store, record["key"]) / stored["file"] if self.store and stored else None
        if path is None or not path.exists():
            return ""
        found = differing(score_on(record, path, data, protocol), record["results"]["test"])
        if found:
            raise DataError(f"scored again, its predictions give other numbers ({', '.join(found)})")
        return "scored again from the stored predictions, with the recorded numbers"


def _identity(record: Record, data: Dataset, protocol: Protocol, new_keys: Mapping[str, str]) -> dict[str, Any]:
    """The identity under this harness, as `mlbench.runner.plan.Run` has it."""
    old = record["identity"]
    method, mask = old["method"], dict(old["mask"])
    uses = {}
    for name, key in old["uses"].items():
        if key not in new_keys:
            raise DataError(f"it builds on run {key[:16]} ('{name}'), which is not among the records brought over")
        uses[name] = new_keys[key]
    if "inputs" in old:
        here = side_identity(load_method(method["name"]).inputs, data, method["hyperparameters"])
        if here != old["inputs"]:
            raise DataError(f"its side inputs ({', '.join(old['inputs'])}) are not those of the data set here")
    sees = mask_matters(
        mask["process"], mask["params"], method["supervision"], old["selection"], builds_on_others=bool(uses)
    )
    if not sees:
        mask = {name: value for name, value in mask.items() if name not in ("seed", "sha256")}
    multipliers = {role: factor for role, factor in old["train"]["lr_multipliers"].items() if factor != 1}
    return {
        **old,
        "harness": mlbench.HARNESS_VERSION,
        "protocol_sha256": protocol.sha256,
        "dataset": {"id": data.id, "version": data.version, "fingerprint": data.fingerprint},
        "mask": mask,
        "definitions": protocol.counted,
        "train": {**old["train"], "lr_multipliers": multipliers},
        "uses": uses,
        "mask_seed": old["mask_seed"] if sees else 0,
    }


def in_memory(data: Dataset) -> bool:
    """Whether the images are arrays, which the earlier fingerprint describes by their content, and no files."""
    for split in data.splits.values():
        images = split.images
        while isinstance(images, SubsetImages):
            images = images.source
        if not hasattr(images, "array"):
            return False
    return True


def _brought(records: Any) -> dict[str, str]:
    """New keys by old ones of records that were brought over before."""
    said = ((record["key"], record["provenance"].get("migrated", {}).get("from", [])) for record in records)
    return {old: key for key, earlier in said for old in earlier}


def _bases_first(records: Sequence[Record]) -> list[Record]:
    """`records` with those that others build on before them, else in order of data set and mask."""
    by_key = {record["key"]: record for record in records}
    done: dict[str, Record] = {}

    def add(record: Record, above: tuple[str, ...] = ()) -> None:
        for key in record["identity"]["uses"].values():
            if key in by_key and key not in done and key not in above:
                add(by_key[key], (*above, record["key"]))
        done.setdefault(record["key"], record)

    for record in sorted(records, key=lambda r: (r["identity"]["dataset"]["id"], r["identity"]["mask_seed"], r["key"])):
        add(record)
    return list(done.values())


def _one(there: Record | None, pairs: Sequence[tuple[Record, Record]]) -> Record:
    """The one record of a key: that which is there, or of the lowest mask seed; it names the keys of all."""
    brought = [record for _, record in sorted(pairs, key=lambda pair: pair[0]["identity"]["mask_seed"])]
    one = there if there is not None else brought[0]
    keys = [*one["provenance"].get("migrated", {}).get("from", [])]
    keys += [key for record in brought for key in record["provenance"]["migrated"]["from"] if key not in keys]
    said = one["provenance"].get("migrated") or brought[0]["provenance"]["migrated"]
    one = {**one, "provenance": {**one["provenance"], "migrated": {**said, "from": keys}}}
    # The files of equal scores differ in the key that stands in them: it is the numbers that tell reruns apart.
    return with_replications(one, [record for record in brought if record["results"] != one["results"]])


def _write(folder: Path, changed: Mapping[str, Record], replaced: Mapping[str, Sequence[Record]]) -> None:
    """Write the new records and remove the old ones."""
    texts: dict[str, bytes] = {}
    removed = []
    for key, one in changed.items():
        for record in replaced[key]:
            if not (run_dir(folder, record["key"]) / RECORD_FILE).exists():
                removed.append(published_name(record))
                texts[published_name(one)] = dump_record(one, published_name(one)).encode("ascii")
                continue
            if record["results"] == one["results"]:
                link_files(run_dir(folder, record["key"]), run_dir(folder, key), without=(RECORD_FILE, "lock"))
                write_record(folder, one, replace=True)
                remove_folder(run_dir(folder, record["key"]))
    if texts:
        change_together(folder, texts, removed)
