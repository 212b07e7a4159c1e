"""NUS-WIDE as later papers hand it out: arrays (Cole et al.), a table (ASL), lists of numbers (SPLC)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlbench.datasets import nuswide_asl, nuswide_splc, nuswide_spml
from mlbench.miniature.labels import part_sizes, single_list
from mlbench.miniature.nuswide import concepts, draw_part, take_part, write_concepts
from mlbench.miniature.pictures import Studio

_BARE = 0.02  # share of the images in the arrays that have no positive label


def write_spml(data: str, root: Path, studio: Studio, images: int) -> dict[str, dict[str, np.ndarray]]:
    """``formatted_{train,val}_{images,labels}.npy`` and ``Flickr``."""
    write_concepts(root)
    truth = {}
    for split, n in part_sizes(images, nuswide_spml.SIZES).items():
        part = "train" if split == "train" else "val"
        names, present = draw_part(studio, data, split, n, _BARE)
        take_part(studio, data, names, present, root / "Flickr")
        np.save(root / f"formatted_{part}_images.npy", np.array(names))
        np.save(root / f"formatted_{part}_labels.npy", present.astype(np.float64))
        truth[split] = present
    return {data: truth}


def write_asl(data: str, root: Path, studio: Studio, images: int) -> dict[str, dict[str, np.ndarray]]:
    """``nus_wid_data.csv`` and the images that it names; its classes are those met, sorted."""
    lines, parts = ["filepath,label,split_name\n"], {}
    names = concepts()
    for split, n in part_sizes(images, nuswide_asl.SIZES).items():
        files, present = draw_part(studio, data, split, n, 0.0)
        files = [f"images/{file.partition('/')[2]}" for file in files]
        take_part(studio, data, files, present, root)
        for file, row in zip(files, present, strict=True):
            labels = [names[column] for column in np.flatnonzero(row)]
            lines.append(f'{file},"{labels}",{"train" if split == "train" else "val"}\n')
        parts[split] = present
    (root / nuswide_asl.TABLE).write_text("".join(lines), encoding="utf-8")
    met = np.flatnonzero(np.concatenate(list(parts.values())).any(axis=0)).tolist()
    met.sort(key=names.__getitem__)
    return {data: {split: present[:, met] for split, present in parts.items()}}


def write_splc(data: str, root: Path, studio: Studio, images: int) -> dict[str, dict[str, np.ndarray]]:
    """``nus_train_single.txt`` (one label an image), ``nus_val.txt`` (all) and ``images``."""
    write_concepts(root)
    truth = {}
    sizes = part_sizes(images, {split: number for split, (_, number) in nuswide_splc.LISTS.items()})
    for split, n in sizes.items():
        files, present = draw_part(studio, data, split, n, 0.0)
        files = [file.partition("/")[2] for file in files]
        take_part(studio, data, files, present, root / "images")
        text = single_list(studio.stream(data, "list"), files, present, 0.0 if split == "train" else 1.0)
        (root / nuswide_splc.LISTS[split][0]).write_text(text, encoding="utf-8")
        truth[split] = np.zeros_like(present)
        for row, line in enumerate(text.splitlines()):
            truth[split][row, list(map(int, line.partition(",")[2].split()))] = True
    return {data: truth}
