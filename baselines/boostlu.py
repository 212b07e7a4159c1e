"""BoostLU presets: a method of this package with BoostLU in training and inference, under a name of its own."""

from __future__ import annotations

from mlbench.methods import Method


class _BoostLU(Method):
    head = {"alpha_train": 5.0, "alpha_infer": 5.0}
    preset = "_boostlu"


def with_boostlu(method: type[Method]) -> type[Method]:
    """`method` with BoostLU between classifier and pooling, in training and inference (alpha 5).

    To be registered as ``KEY_boostlu``, KEY being the name of `method`. It is ``--method KEY --set head.alpha=5``, with
    private draws of its own. The settings that KEY has for a data set hold here too; a table of its own goes before.

    Source: Kim et al., CVPR 2023, scenario ii; losses are computed on the boosted logits.
    """
    title = (method.__doc__ or "").partition("\n")[0].rstrip(".")
    about = "Source: Kim et al., CVPR 2023; losses are computed on the boosted logits. The rest is the method's own."
    body = {"__doc__": f"{title}, with BoostLU (alpha 5).\n\n{about}\n", "__module__": method.__module__}
    return type(f"{method.__name__}BoostLU", (_BoostLU, method), body)
