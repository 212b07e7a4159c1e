"""Methods that write an image's labels one after the other: CNN-RNN, SREL-RNN and PLA.

Only observed positives are in the sequences they learn from. Where labels are hidden, the end is learned after the last
observed one: as `an` does, these methods take unknown labels as absent. Labels that the protocol calls unspecified take
no part.

From sequences to scores. A label's score is the log-probability of the most probable beginning of a sequence that ends
with this label, among all beginnings that the beam search looks at; with ``class_scores = "marginal"``, that of all
these beginnings together (a lower bound of the probability that the sequence holds the label). The search looks at each
label after the empty beginning, so that every label has a score, on the best path or not. Scores are ranks, because
half is no threshold for them: the labels decided for are those of the most probable whole sequence. ``max_length = 3``
gives the "top-3" of CNN-RNN on COCO, at most three labels an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlbench.annotation import State
from mlbench.annotation.sparse import count_states
from mlbench.methods import Batch, Hyper, Method, Phase, Prediction, Step, Task
from mlbench.methods.labels import Labels
from mlbench.models.heads import Classifier, Head
from mlbench.settings import TrainSettings

from .beam import State as DecoderState
from .beam import beam_search, check_search, on_best_path
from .decoders import (
    Decoder,
    JointDecoder,
    StateDecoder,
    label_sequences,
    predicted_label_alignment,
    sequence_loss,
)
from .losses import bce

EMBEDDING = "numbers a word is embedded in"
UNITS = "units of the LSTM"
BEAM = "beginnings kept in the beam search; 1 is greedy"

SEARCH = {
    "min_length": Hyper(0, "least number of labels of an image (published by data set)", low=0),
    "max_length": Hyper(0, "largest number of labels of an image; 0: no limit (ours)", low=0),
    "class_scores": Hyper(
        "best_path", "a label's score: its best beginning, or all of them (ours)", choices=("best_path", "marginal")
    ),
}


class Writer(nn.Module):
    """A backbone, and a decoder that starts from its pooled features."""

    def __init__(self, backbone: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = decoder

    @property
    def decoder(self) -> Decoder:
        return self.head

    def start(self, inputs: Tensor) -> DecoderState:
        """The decoder's state before the first word of each image."""
        return self.head.start(self.backbone(inputs).mean(dim=(2, 3)))


class ConceptWriter(nn.Module):
    """A classifier of concepts, and a decoder that starts from their probabilities."""

    def __init__(self, classifier: Classifier, decoder: Decoder) -> None:
        super().__init__()
        self.backbone: nn.Module = classifier.backbone
        self.head: Head = classifier.head  # type: ignore[assignment]
        self.decoder = decoder

    def concepts(self, inputs: Tensor) -> Tensor:
        """Logits [B, C] of the concepts, which are the classes."""
        return self.head(self.backbone(inputs))

    def start(self, inputs: Tensor) -> DecoderState:
        """The decoder's state before the first word of each image."""
        return self.decoder.start(self.concepts(inputs).sigmoid())


class _LabelSequence(Method):
    """What the methods here share: an order of the labels, and the search that makes scores and decisions."""

    scores = "rank"
    decision_rule = "on the most probable path of the beam search"

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._longest = self.hyper["max_length"] or task.num_classes
        check_search(task.num_classes, self.hyper["beam"], self.hyper["min_length"], self._longest)
        self._often = count_states(task.labels.observed, State.POSITIVE)

    def order(self, rare_first: bool) -> Tensor:
        """Classes by how often they are observed positive in training, int64 [C]; ties by class index."""
        keys = self._often if rare_first else -self._often
        return torch.from_numpy(np.argsort(keys, kind="stable").copy()).to(self.task.device)

    def predict(self, network: nn.Module, batch: Batch) -> Tensor | Prediction:
        if isinstance(network, Classifier):  # a phase that only trains one
            return network(batch.inputs).logits
        writer: Any = network
        classes = self.task.num_classes
        beam = beam_search(
            writer.decoder.step,
            writer.start(batch.inputs),
            classes,
            width=self.hyper["beam"],
            min_length=self.hyper["min_length"],
            max_length=self._longest,
        )
        scores = beam.best if self.hyper["class_scores"] == "best_path" else beam.marginal
        return Prediction(scores, on_best_path(beam, classes))


def _labels(batch: Batch) -> Labels:
    assert batch.labels is not None
    return batch.labels


class CNNRNN(_LabelSequence):
    """Labels written frequent first by an LSTM that shares one embedding space with the image (CNN-RNN).

    Faithful: the joint embedding, the frequent-first order (by observed labels), the frozen CNN, cross-entropy of the
    true sequence, beam search with a least length by data set.

    Substituted: the pooled features of the run's backbone for fc7 of VGG-16; an LSTM as it is usual (tanh) for theirs
    (ReLU). Recalled and not checked: 64 and 512 units. Not known to us: the beam's width, dropout (none here).

    Scores: none by class were published; ours are the log-probability of the best beginning that ends with the class
    (see the module), so that mAP ranks by it. Decisions are the labels of the best path.

    Cost: an image takes the backbone, and for each word written `beam` steps of the LSTM.

    Source: Wang et al., CVPR 2016.
    """

    needs_head = "none"
    level = "B"
    hyperparameters = {
        "embedding": Hyper(64, f"{EMBEDDING} (recalled, not checked)", low=1),
        "units": Hyper(512, f"{UNITS} (recalled, not checked)", low=1, tiny=48),
        "beam": Hyper(3, f"{BEAM} (ours: the published width is not known)", low=1),
        "frozen_cnn": Hyper(True, "leave the backbone as it starts, as published; false: train it too"),
        **SEARCH,
    }

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.refuse_boostlu()
        self._order = self.order(rare_first=False)

    def phases(self) -> Sequence[Phase]:
        return [Phase(roles=("head",) if self.hyper["frozen_cnn"] else None)]

    def network(self, phase: Phase) -> Writer:
        backbone: Any = self.task.backbone()
        sizes = self.hyper["embedding"], self.hyper["units"]
        return Writer(backbone, JointDecoder(backbone.out_channels, self.task.num_classes, *sizes))

    def training_step(self, network: Any, batch: Batch, step: Step) -> Tensor:
        labels = _labels(batch)
        targets = label_sequences(labels.positive, self._order)
        logits = network.decoder.teach(network.start(batch.inputs), targets)
        return sequence_loss(logits, targets, ~labels.counted)


class SemanticConcepts(_LabelSequence):
    """Labels written rare first by an LSTM that starts from the classes' probabilities (SREL-RNN, S-CNN-RNN).

    Three phases: a classifier of the concepts alone; the LSTM alone, started from the observed labels in place of
    probabilities; both together, the concepts' loss kept. The concepts are the classes themselves.

    Faithful: probabilities as the only link between the two, the rare-first order (by observed labels), the phases.
    From public ports: ``h_0 = W s`` and ``c_0 = 0``, 512 units, an embedding of 256, greedy search.

    Substituted: the run's backbone; the number of epochs is that of the protocol for each phase; the weight of the
    concepts' loss in the last phase is ours. Recalled and not checked: that this loss is kept.

    Scores: none by class were published; ours are the log-probability of the best beginning that ends with the class
    (see the module), so that mAP ranks by it. Decisions are the labels of the best path.

    Cost: an image takes the plain classifier, and for each word written `beam` steps of the LSTM.

    Source: Liu et al., CVPR 2017 (semantic regularisation).
    """

    needs_head = "weight"
    level = "B"
    hyperparameters = {
        "embedding": Hyper(256, f"{EMBEDDING} (of a public port)", low=1),
        "units": Hyper(512, f"{UNITS} (of public ports)", low=1, tiny=48),
        "beam": Hyper(1, f"{BEAM}, as in public ports", low=1),
        "concept_weight": Hyper(1.0, "weight of the concepts' loss in the last phase (ours)", low=0.0),
        **SEARCH,
    }

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._order = self.order(rare_first=True)

    def phases(self) -> Sequence[Phase]:
        return [
            Phase("concepts"),
            Phase("words", train=_decoder_as_head, roles=("decoder",), selection="last"),
            Phase("joint", train=_decoder_as_head),
        ]

    def network(self, phase: Phase) -> nn.Module:
        classifier = self.task.classifier(self.head_spec())
        if phase.name == "concepts":
            return classifier
        classes = self.task.num_classes
        sizes = self.hyper["embedding"], self.hyper["units"]
        network = ConceptWriter(classifier, StateDecoder(classes, classes, *sizes))
        before = "concepts" if phase.name == "words" else "words"
        network.load_state_dict(self.task.artefacts[before], strict=phase.name != "words")
        return network

    def training_step(self, network: Any, batch: Batch, step: Step) -> Tensor | dict[str, Tensor]:
        labels = _labels(batch)
        if step.phase == "concepts":
            return bce(network(batch.inputs).logits, labels.state)
        targets = label_sequences(labels.positive, self._order)
        if step.phase == "words":
            start = network.decoder.start(labels.positive.float())
            return sequence_loss(network.decoder.teach(start, targets), targets, ~labels.counted)
        concepts = network.concepts(batch.inputs)
        logits = network.decoder.teach(network.decoder.start(concepts.sigmoid()), targets)
        return {
            "sequence": sequence_loss(logits, targets, ~labels.counted),
            "concepts": self.hyper["concept_weight"] * bce(concepts, labels.state),
        }


class PredictedLabelAlignment(_LabelSequence):
    """Labels written in no fixed order: the true ones are put where the network writes them (PLA, orderless CNN-RNN).

    The LSTM runs on its own words in training as in inference, and the observed labels are aligned to them. On track
    `full` the backbone is first trained as a classifier.

    Faithful: as in the released code, the alignment (but see `predicted_label_alignment`), its own words as inputs,
    ``h_0`` and ``c_0`` linear in the pooled features, sizes, greedy search.

    Substituted: the run's backbone; attention over positions, weight averaging and the last phase with the decoder
    alone are left out; the loss is summed over an image's words, not averaged over a batch's.

    Scores: ours, the log-probability of the best beginning that ends with the class (see the module), so that mAP ranks
    by it. Decisions are the labels of the best path.

    Cost: an image takes the backbone, and for each word written `beam` steps of the LSTM.

    Source: Yazici et al., CVPR 2020.
    """

    needs_head = "none"
    hyperparameters = {
        "embedding": Hyper(256, f"{EMBEDDING} (released code)", low=1),
        "units": Hyper(512, f"{UNITS} (released code)", low=1, tiny=48),
        "beam": Hyper(1, f"{BEAM}, as in the released code", low=1),
        **SEARCH,
    }

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.refuse_boostlu()

    def phases(self) -> Sequence[Phase]:
        sequence = Phase("sequence")
        return [Phase("encoder"), sequence] if self.task.track == "full" else [sequence]

    def network(self, phase: Phase) -> nn.Module:
        if phase.name == "encoder":
            return self.task.classifier(self.head_spec())
        backbone: Any = self.task.backbone()
        sizes = self.hyper["embedding"], self.hyper["units"]
        if "encoder" in self.task.artefacts:
            trained = self.task.artefacts["encoder"].items()
            prefix = "backbone."
            backbone.load_state_dict({k.removeprefix(prefix): v for k, v in trained if k.startswith(prefix)})
        return Writer(backbone, StateDecoder(backbone.out_channels, self.task.num_classes, *sizes, cell=True))

    def training_step(self, network: Any, batch: Batch, step: Step) -> Tensor:
        labels = _labels(batch)
        if step.phase == "encoder":
            return bce(network(batch.inputs).logits, labels.state)
        places = int(labels.positive.sum(dim=1).max()) + 1
        logits = network.decoder.run_free(network.start(batch.inputs), places)
        targets = predicted_label_alignment(logits.detach().log_softmax(dim=2), labels.positive)
        return sequence_loss(logits, targets, ~labels.counted)


def _decoder_as_head(train: TrainSettings) -> Mapping[str, Any]:
    """The decoder learns at the rate of the head."""
    factors = train.lr_multipliers
    return {"lr_multipliers": {**factors, "decoder": factors.get("head", 1.0)}}
