"""`mlbench data`: every command calls one public function, imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlbench.cli.options import QUIET, going_on
from mlbench.cli.output import JSON, answer, echo
from mlbench.errors import MlbenchError, UsageError

# `mlbench run` and the messages about a missing folder call it --data-root.
#: Images that `describe` reads to tell equal ones: some ten seconds.
_MOST_HASHED = 10_000
_ROOT = click.option("--root", "--data-root", "root", type=click.Path(path_type=Path), help="Folder of the data set.")


@click.group("data")
def data_group() -> None:
    """Fetch, check, describe and rehearse data sets; make masks; read FiftyOne."""


@data_group.command("list")
@click.option("--root", type=click.Path(path_type=Path), help="Folder to look for them in.")
@JSON
def list_command(root: Path | None) -> None:
    """List what can be fetched: size, licence, what takes a form, whether it is there."""
    from mlbench.acquire.overview import list_sources

    answer(lambda: list_sources(root))


@data_group.command("prepare")
@click.argument("name")
@click.option("--root", type=click.Path(path_type=Path), required=True, help="Folder to put the data set in.")
@click.option("--mirror", envvar="MLBENCH_MIRROR", help="Base URL to fetch the files from [official; $MLBENCH_MIRROR].")
@click.option("--no-images", is_flag=True, help="Labels only: fetch no archives of pictures, decode nothing.")
@click.option("--size", type=int, help="Side of the cached images, 0 for no cache [that of protocol 'full'].")
@QUIET
def prepare_command(name: str, root: Path, mirror: str | None, no_images: bool, size: int | None, quiet: bool) -> None:
    """Fetch, unpack, verify and decode a data set; goes on where it was stopped."""
    from mlbench.acquire.prepare import Options, prepare
    from mlbench.progress import Reporter

    with going_on(""), Reporter(quiet) as reporter:
        told = prepare(name, root, Options(mirror, not no_images, size), reporter)
    echo(told)


@data_group.command("miniature")
@click.argument("name")
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True, help="Folder to make it in.")
@click.option("--images", type=int, help="Pictures, all parts together [400].")
@click.option(
    "--photographs", type=click.Path(path_type=Path), help="Pictures to cut backgrounds from [two of scikit-learn's]."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is drawn.")
def miniature_command(name: str, folder: Path, **given: Any) -> None:
    """Make a small made-up copy of a data set in its official layout, to try things on before the download."""
    from mlbench.miniature import make

    made = make(name, folder, **given)
    echo(f"made {made}: no data set, but a copy of its layout. Take it with --dataset {name} --data-root {made}")


@data_group.command("verify")
@click.argument("name")
@_ROOT
@click.option("--remember", is_flag=True, help="Keep the hashes in ROOT/.mlbench, to compare with later.")
@QUIET
@JSON
def verify_command(name: str, root: Path | None, remember: bool, quiet: bool) -> None:
    """Open every image, check counts, compare hashes with those kept; writes nothing unless asked to remember."""
    from mlbench.acquire.verify import verify
    from mlbench.datasets import load_dataset
    from mlbench.progress import Reporter

    if remember and root is None:
        raise UsageError("--remember keeps hashes in the data root: give it with --root")
    with Reporter(quiet) as reporter:
        report = verify(load_dataset(name, root), root, remember=remember, reporter=reporter)
    answer(report.text, report.parts, **{name: value for name, value in vars(report).items() if name != "parts"})
    if report.problems:
        raise MlbenchError(f"{name}: {len(report.problems)} problems")


@data_group.command("describe")
@click.argument("name")
@_ROOT
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw it, as a PNG.")
@JSON
def describe_command(name: str, root: Path | None, picture: Path | None) -> None:
    """Counts, labels an image, classes, missing labels, co-occurrence."""
    from mlbench.datasets import load_dataset
    from mlbench.datasets.describe import describe_dataset, draw_dataset
    from mlbench.inputs.duplicates import notes_of

    dataset = load_dataset(name, root)
    notes = notes_of(dataset, most=_MOST_HASHED)
    about = {"dataset": dataset.id, "version": dataset.version, "notes": notes}
    answer(lambda: describe_dataset(dataset, notes=notes), **about)
    if picture is not None:
        echo(f"\nwrote {draw_dataset(dataset, picture)}")


@data_group.command("adopt")
@click.argument("source", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the pictures [a usual one beside SOURCE].")
@click.option("--id", "identity", help="Name of the data set [that of SOURCE].")
@click.option("--output", type=click.Path(path_type=Path), help="Description to write [ID.toml beside SOURCE].")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the split, where SOURCE has none.")
@click.option("--dry-run", is_flag=True, help="Write nothing; print the description.")
def adopt_command(source: tuple[Path, ...], images: Path | None, **given: Any) -> None:
    """Look at a table of labels (CSV, JSONL, Parquet), a COCO file or a folder; write the description for --dataset.

    Several files or folders are the parts of one data set, by their names: train.json val.json test.json.

    Says what it understood: columns, separator, endings, the coding of unknown labels, the split.
    """
    from mlbench.datasets.adopt import adopt

    echo(adopt(source, images, **given))


@data_group.group("mask")
def mask_group() -> None:
    """Make, show, export and import masks: which training labels a method may see."""


_DATASET = click.option("--dataset", required=True, help="Data set name, or path of a .toml description.")
_PROTOCOL = click.option("--protocol", default="single_positive", show_default=True, help="Protocol name or path.")
_OUTPUT = click.option(
    "--output", type=click.Path(path_type=Path), default=Path("mask.safetensors"), show_default=True, help="Mask file."
)
_MASK = click.argument("mask", type=click.Path(path_type=Path))


@mask_group.command("make")
@_DATASET
@_ROOT
@_PROTOCOL
@click.option("--mask-seed", type=int, default=0, show_default=True, help="Draw of the hidden labels.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="annotation.KEY, e.g. annotation.keep=0.3."
)
@_OUTPUT
def mask_make_command(
    dataset: str, root: Path | None, protocol: str, mask_seed: int, assignments: tuple[str, ...], output: Path
) -> None:
    """Draw the mask that a run of the protocol draws; `mlbench run --mask` takes it."""
    from mlbench.annotation import describe
    from mlbench.masks.files import make_mask
    from mlbench.settings import parse_assignments

    changes = parse_assignments(assignments)
    mask = make_mask(dataset, protocol, mask_seed=mask_seed, changes=changes, data_root=root, output=output)
    echo(f"{describe(mask)}\nwrote {output}")


@mask_group.command("show")
@_MASK
@_DATASET
@_ROOT
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw it, as an SVG.")
@JSON
def mask_show_command(mask: Path, dataset: str, root: Path | None, picture: Path | None) -> None:
    """Tell what a mask leaves of the labels of a data set."""
    from mlbench.masks.files import show_mask

    answer(lambda: show_mask(mask, dataset, data_root=root, picture=picture))
    if picture is not None:
        echo(f"\nwrote {picture}")


@mask_group.command("export")
@_MASK
@_DATASET
@_ROOT
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("mask.csv"), show_default=True, help="CSV file."
)
def mask_export_command(mask: Path, dataset: str, root: Path | None, output: Path) -> None:
    """Write a mask as a table: sample, class, state."""
    from mlbench.masks.files import export_mask

    echo(f"wrote {export_mask(mask, dataset, output, data_root=root):,} labels to {output}")


@mask_group.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@_DATASET
@_ROOT
@_PROTOCOL
@click.option("--contradictions", is_flag=True, help="Take labels that contradict the data set too.")
@_OUTPUT
def mask_import_command(
    source: Path, dataset: str, root: Path | None, protocol: str, contradictions: bool, output: Path
) -> None:
    """Read a mask from a table (CSV or JSONL) with the columns sample, class, state."""
    from mlbench.annotation import describe
    from mlbench.masks.files import import_mask

    mask = import_mask(source, dataset, protocol, data_root=root, contradictions=contradictions, output=output)
    echo(f"{describe(mask)}\nwrote {output}")


@data_group.command("from-fiftyone")
@click.argument("name")
@click.option("--field", "fields", multiple=True, help="Label field; may be repeated [the only one].")
@click.option("--negative-field", "negatives", multiple=True, help="Field of labels known to be absent [negative*].")
@click.option("--split-field", help="Field that names each sample's part [its tags].")
@click.option(
    "--part", "parts", multiple=True, metavar="PART=VALUE", help="Tag or value of a part, e.g. test=validation."
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder for the description and labels [./NAME].")
def from_fiftyone_command(
    name: str,
    fields: tuple[str, ...],
    negatives: tuple[str, ...],
    split_field: str | None,
    parts: tuple[str, ...],
    output: Path | None,
) -> None:
    """Write a FiftyOne data set as a description that `--dataset` takes; FiftyOne is not needed afterwards."""
    from mlbench.datasets.fiftyone_in import from_fiftyone

    echo(from_fiftyone(name, fields, split_field, parts, output or Path(name), negatives))


@data_group.command("from-hf")
@click.argument("source")
@click.option("--image", default="image", show_default=True, help="Column of the images.")
@click.option("--labels", default="labels", show_default=True, help="Column of the labels: indices or names.")
@click.option(
    "--part", "parts", multiple=True, metavar="PART=SPLIT", help="Split of a part, e.g. test=validation [by name]."
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder for the description and images [./NAME].")
def from_hf_command(source: str, image: str, labels: str, parts: tuple[str, ...], output: Path | None) -> None:
    """Write a folder of Parquet shards, or a data set of the Hugging Face hub, as files and their description."""
    from mlbench.datasets.hub_in import from_hub

    echo(from_hub(source, output, image, labels, parts))
