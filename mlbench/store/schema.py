"""What a record may hold: plain finite JSON, the schema, and a key that is that of the identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, NoReturn

from mlbench.canonical import canonical_json, check_plain, dotted
from mlbench.errors import DataError, nearest

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

SCHEMA_VERSION = 2
#: Schemas that are read; records of version 1 hold neither their protocol nor the hash of their content.
READABLE = (1, 2)


def run_key(identity: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of `identity`, 64 hex digits."""
    return hashlib.sha256(canonical_json(identity)).hexdigest()


def content_sha256(record: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of `record` without its own `content_sha256`, 64 hex digits."""
    content = {name: value for name, value in record.items() if name != "content_sha256"}
    return hashlib.sha256(canonical_json(content)).hexdigest()


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """`record` as one of this schema version, with the hash of its content: nothing in it can be changed unseen."""
    sealed = {"schema": SCHEMA_VERSION, **record} | {"schema": SCHEMA_VERSION}
    return sealed | {"content_sha256": content_sha256(sealed)}


def refit(record: Mapping[str, Any]) -> dict[str, Any]:
    """`record`, whose content was changed on purpose, with the key and the content hash of what it says now."""
    fitted = {**record, "key": run_key(record["identity"])}
    return seal(fitted) if record["schema"] == SCHEMA_VERSION else fitted


def parse_record(raw: bytes, where: str) -> dict[str, Any]:
    """Read and check a record's text; DataError begins with `where`."""
    try:
        record = json.loads(
            raw.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeated_keys
        )
        check_plain(record, ())
    except (ValueError, RecursionError, DataError) as error:
        raise DataError(f"{where}: broken record: {error}") from None
    _validate(record, where)
    return dict(record)


def dump_record(record: dict[str, Any], where: str) -> str:
    """The text of a checked record, in the order given; DataError begins with `where`."""
    try:
        check_plain(record, ())
    except (DataError, RecursionError) as error:
        raise DataError(f"{where}: {error}") from None
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    _validate(json.loads(text), where)
    return text


def check_identity(identity: dict[str, Any]) -> None:
    """DataError, which names the place, unless a record may hold `identity`."""
    check_plain(identity, ("identity",))
    part = json.loads(json.dumps(identity))
    rules = _validator()
    faults = list(rules.evolve(schema=rules.schema["$defs"]["identity"]).iter_errors(part))
    if faults:
        fault = min(faults, key=_rank)
        raise DataError(f"{dotted(('identity', *map(str, fault.absolute_path)))}: {_explain(fault)}")
    _refuse_paths(part, ("identity",), "identity")


def _validate(record: Any, where: str) -> None:
    """DataError, beginning with `where`, unless `record` (plain JSON) is a record of a schema version that is read."""
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a record (a JSON object), found a {type(record).__name__}")
    version = record.get("schema", SCHEMA_VERSION)  # a missing one is the schema's own first fault
    if type(version) is not int or version not in READABLE:
        newer = type(version) is int and version > SCHEMA_VERSION
        hint = ": it was written by a newer mlbench" if newer else ""
        raise DataError(f"{where}: record schema {version!r}, expected {' or '.join(map(str, READABLE))}{hint}")
    faults = [] if _quick_validator().is_valid(record) else list(_validator().iter_errors(record))
    if faults:
        fault = min(faults, key=_rank)
        raise DataError(f"{where}: {dotted(tuple(map(str, fault.absolute_path)))}: {_explain(fault)}")
    for part in ("identity", "provenance"):
        _refuse_paths(record[part], (part,), where)
    if record["key"] != run_key(record["identity"]):
        raise DataError(f"{where}: key {record['key']} is not that of the identity ({run_key(record['identity'])})")
    if version > 1 and record["content_sha256"] != (found := content_sha256(record)):
        raise DataError(
            f"{where}: changed after it was written: the SHA-256 of its content is {found[:16]}..., and it says "
            f"{record['content_sha256'][:16]}..."
        )


def _rank(fault: Any) -> tuple[Any, ...]:
    """The outermost fault first, and of those an unknown key, which explains a missing one."""
    path = tuple(map(str, fault.absolute_path))
    return len(path), fault.validator != "additionalProperties", path, fault.message


def _explain(fault: Any) -> str:
    known = fault.schema.get("properties", {})
    if fault.validator == "additionalProperties":
        key = next(k for k in fault.instance if k not in known)
        return f"unknown key '{key}'.{nearest(key, known)} Known: {', '.join(known)}"
    if fault.validator == "required":
        key = next(k for k in fault.validator_value if k not in fault.instance)
        return f"key '{key}' is missing"
    return str(fault.message) if len(fault.message) <= 200 else f"{fault.message[:120]} ... {fault.message[-70:]}"


def _refuse_paths(value: object, place: tuple[str, ...], where: str) -> None:
    """DataError for a machine's own path: it would change the key from place to place, or tell who ran it."""
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_paths(item, (*place, key), where)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _refuse_paths(item, (*place, str(number)), where)
    elif isinstance(value, str) and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()):
        raise DataError(f"{where}: {dotted(place)}: the absolute path '{value}' does not belong in a record")


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key '{next(n for n in names if names.count(n) > 1)}' stands twice")
    return found


#: Levels of tables and lists in a record.


@cache
def _quick_validator() -> Any:
    """Says in a tenth of the time, or less, whether a record keeps the schema; `_validator` tells how it does not."""
    import jsonschema_rs

    return jsonschema_rs.validator_for(_schema())


@cache
def _validator() -> Validator:
    from jsonschema import Draft202012Validator  # slow to import, and `--help` needs none of it

    return Draft202012Validator(_schema())


@cache
def _schema() -> Any:
    return json.loads((files("mlbench") / "schema" / "record.json").read_text(encoding="utf-8"))
