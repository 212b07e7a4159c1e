"""Detection metrics against cases counted by hand and a slow independent count."""

from __future__ import annotations

import numpy as np
import pytest

from mlbench.errors import DataError, UsageError
from mlbench.metrics.detection import Detections, box_iou, corloc, detection_average_precision

LEFT, RIGHT, TALL = [0.0, 0, 2, 2], [4.0, 0, 6, 2], [0.0, 0, 2, 4]


def found(*rows: tuple[int, float, list[float]]) -> Detections:
    return Detections(
        np.array([row[0] for row in rows], dtype=int),
        np.array([row[1] for row in rows], dtype=float),
        np.array([row[2] for row in rows], dtype=float).reshape(-1, 4),
    )


def test_overlap_by_hand() -> None:
    boxes = np.array([LEFT, RIGHT, TALL, [1, 1, 1, 5]])
    wanted = [[1, 0, 0.5, 0], [0, 1, 0, 0], [0.5, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(box_iou(boxes, boxes), wanted)
    np.testing.assert_allclose(box_iou(boxes * [3, 5, 3, 5], boxes * [3, 5, 3, 5]), wanted)
    assert box_iou(boxes[:0], boxes).shape == (0, 4)


def test_a_second_find_is_wrong_and_order_is_by_score_over_all_images() -> None:
    truth = [found((0, 1, LEFT), (0, 1, RIGHT)), found((0, 1, LEFT))]
    given = [found((0, 0.9, LEFT), (0, 0.8, LEFT), (0, 0.3, RIGHT)), found((0, 0.7, RIGHT), (0, 0.1, TALL))]
    # right, second find, wrong image place, right, right (overlap just 0.5): precision 1, ., ., 2/4, 3/5.
    ap = detection_average_precision(given, truth, 2)
    assert ap[0] == pytest.approx((1 + 3 / 5 + 3 / 5) / 3)
    assert np.isnan(ap[1])
    # recall 1/3 is reached at 0, 0.1, 0.2, 0.3; the seven levels above have 3/5.
    assert detection_average_precision(given, truth, 1, flavour="eleven_point")[0] == pytest.approx((4 + 7 * 0.6) / 11)
    assert detection_average_precision(given, truth, 1, iou=0.51)[0] == pytest.approx((1 + 2 / 4) / 3)


def test_nothing_found_and_nothing_there() -> None:
    truth, empty = [found((1, 1, LEFT))], [found()]
    np.testing.assert_array_equal(detection_average_precision(empty, truth, 2), [np.nan, 0.0])
    np.testing.assert_array_equal(detection_average_precision(truth, empty, 2), [np.nan, np.nan])
    np.testing.assert_array_equal(corloc(empty, truth, 2), [np.nan, 0.0])


def test_corloc_looks_at_the_best_box_in_images_with_the_class() -> None:
    truth = [found((0, 1, LEFT)), found((0, 1, LEFT)), found((1, 1, LEFT))]
    given = [found((0, 0.9, RIGHT), (0, 0.8, LEFT)), found((0, 0.2, TALL)), found((0, 1, LEFT))]
    np.testing.assert_allclose(corloc(given, truth, 3), [0.5, 0.0, np.nan])


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_agrees_with_a_slow_count(seed: int) -> None:
    random = np.random.RandomState(seed)

    def some(count: int) -> Detections:
        corners = random.randint(0, 4, (count, 2))
        boxes = np.hstack([corners, corners + random.randint(1, 4, (count, 2))]).astype(float)
        return Detections(random.randint(0, 2, count), random.rand(count), boxes)

    truth, given = ([some(random.randint(0, 5)) for _ in range(6)] for _ in range(2))
    for c, value in enumerate(detection_average_precision(given, truth, 2)):
        rows = sorted(
            (
                (s, i, b)
                for i, d in enumerate(given)
                for k, s, b in zip(d.classes, d.scores, d.boxes, strict=True)
                if k == c
            ),
            key=lambda row: -row[0],
        )
        free = {i: [list(b) for k, b in zip(d.classes, d.boxes, strict=True) if k == c] for i, d in enumerate(truth)}
        every = {i: list(map(tuple, boxes)) for i, boxes in free.items()}
        total, points, hits = sum(map(len, free.values())), [], 0
        for place, (_, image, box) in enumerate(rows, 1):
            overlaps = [box_iou(np.array([box]), np.array([b]))[0, 0] for b in every[image]]
            if overlaps and max(overlaps) >= 0.5:
                best = list(every[image][int(np.argmax(overlaps))])
                if best in free[image] and every[image].count(tuple(best)) == 1:
                    free[image].remove(best)
                    hits += 1
            points.append((hits / total if total else 0, hits / place))
        if any(boxes.count(b) > 1 for boxes in every.values() for b in boxes):
            continue  # two equal boxes: which of them is found is a matter of taste
        area, reached = 0.0, 0.0
        for recall, _ in points:
            if recall > reached:
                area += (recall - reached) * max(p for r, p in points if r >= recall)
                reached = recall
        assert value == pytest.approx(area, nan_ok=True) or (np.isnan(value) and not total)


def test_wrong_shapes_and_names_are_refused() -> None:
    with pytest.raises(DataError, match=r"expected \[1\] and \[1, 4\]"):
        Detections(np.zeros(1, int), np.zeros(2), np.zeros((1, 4)))
    with pytest.raises(DataError, match="not finite"):
        found((0, np.nan, LEFT))
    with pytest.raises(DataError, match="detections of 1 images"):
        corloc([found()], [], 1)
    with pytest.raises(UsageError, match="envelope"):
        detection_average_precision([], [], 1, flavour="envelop")


@pytest.mark.parametrize("seed", range(3))
def test_eleven_points_are_those_of_pycocotools(seed: int) -> None:
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    random, images, classes = np.random.RandomState(seed), 5, 2
    corners = np.array([(x, y) for x in (0, 100, 200) for y in (0, 100, 200)], dtype=float)

    def around(at: np.ndarray, spread: float) -> np.ndarray:
        return at + random.uniform(-spread, spread, at.shape)

    truth, given = [], []
    for image in range(images):
        # Boxes of a class lie apart, so that each find overlaps one at most, and the two rules of matching agree;
        # 13 and 17 of them, so that no recall is a tenth.
        kinds = np.repeat([0, 1], [(3, 3, 3, 3, 1)[image], (4, 4, 4, 4, 1)[image]])
        boxes = np.concatenate([corners, corners + 60], axis=1)[random.permutation(9)[: len(kinds)]]
        truth.append(Detections(kinds, np.ones(len(kinds)), boxes))
        places = np.concatenate([around(boxes, 12.0), around(boxes, 12.0), around(boxes, 40.0)])
        places[:, 2:] = np.maximum(places[:, 2:], places[:, :2] + 1)
        given.append(Detections(np.tile(kinds, 3), random.rand(len(places)), places))

    def rows(each: Detections, image: int) -> list[dict]:
        sides = np.concatenate([each.boxes[:, :2], each.boxes[:, 2:] - each.boxes[:, :2]], axis=1)
        return [
            {"image_id": image, "category_id": int(c) + 1, "bbox": box.tolist(), "score": float(score)}
            for c, score, box in zip(each.classes, each.scores, sides, strict=True)
        ]

    there = [row for image, each in enumerate(truth) for row in rows(each, image)]
    for number, row in enumerate(there, start=1):
        row |= {"id": number, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3]}
    known = coco.COCO()
    known.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(images)],
        "categories": [{"id": c + 1, "name": str(c)} for c in range(classes)],
        "annotations": there,
    }
    known.createIndex()
    scored = cocoeval.COCOeval(
        known, known.loadRes([row for image, each in enumerate(given) for row in rows(each, image)]), "bbox"
    )
    scored.params.iouThrs, scored.params.maxDets = np.array([0.5]), [1000]
    scored.evaluate()
    scored.accumulate()
    wanted = scored.eval["precision"][0, ::10, :, 0, 0].mean(axis=0)
    ours = detection_average_precision(given, truth, classes, flavour="eleven_point")
    assert ((wanted > 0.3) & (wanted < 1.0)).all()
    np.testing.assert_allclose(ours, wanted, atol=1e-12)
