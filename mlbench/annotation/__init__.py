"""Label states, and the annotation processes that hide labels.

A process is data: a name, its parameters and a seed. `draw_mask` applies it once to the labels of the whole
official training part and gives a `Mask`, which can be stored, checked and described.
"""

from mlbench.annotation.describe import describe, may_contradict
from mlbench.annotation.draws import hidden_per_image
from mlbench.annotation.masks import Mask, load_mask, save_mask
from mlbench.annotation.processes import PROCESSES, Param, Process, check_process, draw_mask
from mlbench.annotation.relevance import mask_matters
from mlbench.annotation.states import State, check_labels, hash_ids, map_unspecified

__all__ = [
    "PROCESSES",
    "Mask",
    "Param",
    "Process",
    "State",
    "check_labels",
    "check_process",
    "describe",
    "draw_mask",
    "hash_ids",
    "hidden_per_image",
    "load_mask",
    "map_unspecified",
    "mask_matters",
    "may_contradict",
    "save_mask",
]
