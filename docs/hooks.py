"""Pages that the documentation's site makes of what stands elsewhere: README, reports, definitions of metrics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
#: Pages by the file they are made of.
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security-policy.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
    **{f"results/reports/{path.name}": f"reports/{path.name}" for path in (ROOT / "results" / "reports").glob("*.md")},
}
_LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=_moved(source, page)))
    files.append(File.generated(config, "definitions.md", content=definitions()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files outside of the guide lead to the pages made of these, or become text: a reader has no checkout."""
    return _LINK.sub(lambda match: _inside(match, Path(page.file.src_uri).parent), markdown)


def _inside(match: re.Match[str], folder: Path) -> str:
    target = (ROOT / "docs" / folder / match[1]).resolve()
    if target.is_relative_to(ROOT) and (page := PAGES.get(target.relative_to(ROOT).as_posix())):
        return f"]({'../' * len(folder.parts)}{page}{match[2] or ''})"
    known = target.is_file() or target.relative_to(ROOT / "docs").as_posix() in {*PAGES.values(), "definitions.md"}
    return match[0] if known and "example-plugin" not in match[1] else "]"


def _moved(source: str, page: str) -> str:
    """The text of `source` with its links as they are from `page`."""
    folder = Path(source).parent

    def link(match: re.Match[str]) -> str:
        target = (ROOT / folder / match[1]).resolve().relative_to(ROOT).as_posix()
        target = PAGES.get(target, target.removeprefix("docs/") if target.startswith("docs/") else "")
        up = "../" * page.count("/")
        return f"]({up}{target}{match[2] or ''})" if target.endswith((".md", ".svg")) else "]"

    return _LINK.sub(link, (ROOT / source).read_text(encoding="utf-8"))


def definitions() -> str:
    """The definitions of metrics, as a page: every choice that a published code makes, and who makes it."""
    from mlbench.metrics.definitions import AXES, DEPENDS, Definition, users
    from mlbench.metrics.registered import METRICS

    about = dict(
        re.findall(r"\n    (\w+) : (.*?)(?=\n    \w[\w, ]* : |\n    \"\"\"|\Z)", Definition.__doc__ or "", re.S)
    )
    lines = [
        "# Definitions of metrics",
        "",
        "A number called *F1-O* or *mAP* is one of many. Each published code makes its choices along the axes below;",
        "`mlbench explain metrics RUN` gives one run under all of them.",
        "",
        "## Formulas",
        "",
        "For class c with true positives TP, predicted positives PP and labelled positives LP, over test images:",
        "",
        "* AP_c: precision at the rank of each positive, averaged over the positives (`step`); other flavours below.",
        "* mAP: the mean of AP_c over classes.",
        "* P-C, R-C: means over classes of TP/PP and TP/LP.",
        "* F1-C: the mean of the classes' F1, or the harmonic mean of P-C and R-C.",
        "* P-O, R-O: sums of TP over sums of PP, and of LP. F1-O: their harmonic mean.",
        "* mA: mean over classes of half the true positive rate and half the true negative rate.",
        "* In top-k columns the k highest scores of each image are its decisions.",
        "",
        "## What each metric depends on",
        "",
        "| metric | axes |",
        "|---|---|",
        *(f"| {metric} | {', '.join(f'`{axis}`' for axis in axes)} |" for metric, axes in DEPENDS.items()),
        "",
        "## Axes, choices, and whose they are",
        "",
    ]
    for axis, choices in AXES.items():
        lines += [
            f"### `{axis}`",
            "",
            " ".join(about.get(axis, "").split()),
            "",
            "| choice | published codes |",
            "|---|---|",
        ]
        lines += [f"| `{choice}` | {users(axis, choice) or 'none of those read'} |" for choice in choices] + [""]
    lines += ["## Further measures", "", "| name | what |", "|---|---|"]
    lines += [f"| {name} | {METRICS[name].summary} |" for name in METRICS]
    return "\n".join(lines) + "\n"
