"""Protocols: which labels are hidden, how data is split, how a method is trained, selected and scored.

A protocol is a TOML file in ``protocols/`` (or any path given on the command line). ``extends = "name"`` takes
another protocol and changes the keys given.
"""

from mlbench.protocol.definition import TRACKS, Annotation, MetricRules, Protocol, SplitRule, Unspecified
from mlbench.protocol.reading import (
    PROTOCOLS,
    legacy_sha256,
    list_protocols,
    load_protocol,
    protocol_named,
    protocol_of,
)

__all__ = [
    "PROTOCOLS",
    "TRACKS",
    "Annotation",
    "MetricRules",
    "Protocol",
    "SplitRule",
    "Unspecified",
    "legacy_sha256",
    "list_protocols",
    "load_protocol",
    "protocol_named",
    "protocol_of",
]
