"""What a run's numbers rest on beside its data set: pretraining of the backbone, and of models that gave it scores."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

#: From least to most. A run has the most of what its backbone, its method and the runs it builds on were given.
PRETRAINING = ("random", "imagenet", "vision_language")

#: In names of networks and weights: families trained on pairs of images and texts (their names in timm and open_clip).
_VISION_LANGUAGE = re.compile(r"clip|siglip|(^|[^a-z])(align|blip|coca|laion|metaclip|pe_core)([^a-z]|$)")


def implied(identity: Mapping[str, Any]) -> str:
    """The pretraining that an identity tells without saying it.

    Weights are ImageNet's, as those that `run` asks for, unless the network's name tells of texts; scores of a
    vision-language model (supervision "vl_scores") are what their model was trained on. Of submitted predictions the
    weights are not known: "imagenet", or what the claims imply.
    """
    backbone, method = identity.get("backbone", {}), identity.get("method", {})
    weights = str(backbone.get("weights", "none"))
    named = weights != "none" and names_vision_language(str(backbone.get("name", "")))
    if named or "vl_scores" in method.get("supervision", ()):
        return "vision_language"
    return "random" if weights == "none" else "imagenet"


def pretraining_of(record: Mapping[str, Any]) -> str:
    """The level of `PRETRAINING` that a run's numbers rest on: what its identity says, else what that implies.

    An identity says it only where it is not implied (weights declared to be others, a run built on that was given
    more), so that keys of runs made before there was such an entry hold.
    """
    identity = record["identity"]
    return str(identity.get("pretraining") or implied(identity))


def names_vision_language(name: str) -> bool:
    """Whether a network or a weights file is named as one trained on pairs of images and texts."""
    return _VISION_LANGUAGE.search(name.lower()) is not None


def most(levels: Iterable[str]) -> str:
    """The highest of `levels`; the lowest there is where there are none."""
    return max(levels, key=PRETRAINING.index, default=PRETRAINING[0])
