"""What a mask leaves visible, as a picture (SVG)."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

import numpy as np

from mlbench.errors import visible

WIDTH = 420
TRUE, SHOWN = "#c9d3e0", "#2f5d9b"
_NAMED = 160  # more bars than this are thin and have no names


def mask_picture(classes: Sequence[str], true: np.ndarray, shown: np.ndarray, title: str) -> str:
    """Two bar charts beside each other, true (light) behind shown (dark): positives a class, positives an image.

    Parameters
    ----------
    classes : C names. true, shown : bool [N, C], positive in the data set and in the mask. title : stands on top.

    Returns
    -------
    SVG text. Classes stand in falling order of true positives; a shown bar longer than the true one has false
    positives in it.
    """
    order = np.argsort(-true.sum(axis=0), kind="stable")
    left = _bars(
        [classes[c] for c in order], true.sum(axis=0)[order], shown.sum(axis=0)[order], "positives of each class"
    )
    counts = [np.bincount(found.sum(axis=1)) for found in (true, shown)]
    length = max(map(len, counts))
    spread, kept = (np.pad(found, (0, length - len(found))) for found in counts)
    right = _bars([str(n) for n in range(length)], spread, kept, "images by number of positives")
    height = 60 + max(n * _step(n) for n in (len(classes), length))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH + 40}" height="{height}" '
        'font-family="sans-serif" font-size="11">\n'
        '<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="10" y="18" font-size="13">{_text(title)}; light: true, dark: shown; numbers: shown / true</text>\n'
        f"{left}\n"
        f'<g transform="translate({WIDTH + 20} 0)">\n{right}\n</g>\n</svg>\n'
    )


def _text(text: str, longest: int | None = None) -> str:
    return escape(visible(text)[:longest])


def _step(bars: int) -> int:
    """Pixels from one bar to the next."""
    return 14 if bars <= _NAMED else 3


def _bars(names: Sequence[str], behind: np.ndarray, front: np.ndarray, title: str) -> str:
    """Horizontal bars int [K], one behind the other, with names at the left and both numbers at the right."""
    start, room, step = 130, WIDTH - 130 - 90, _step(len(names))
    longest = max(int(behind.max(initial=0)), int(front.max(initial=0)), 1)
    if len(names) > _NAMED:
        title += f"; {len(names):,} bars, the longest {longest:,}"
    lines = [f'<text x="{start}" y="38">{_text(title)}</text>']
    for i, (name, b, f) in enumerate(zip(names, behind, front, strict=True)):
        top = 46 + i * step
        for value, colour, inset in ((b, TRUE, 0), (f, SHOWN, step // 4)):
            size = f'width="{room * int(value) / longest:.1f}" height="{step - 1 - 2 * inset}"'
            lines.append(f'<rect x="{start}" y="{top + inset}" {size} fill="{colour}"/>')
        if len(names) <= _NAMED:
            lines.append(f'<text x="{start - 6}" y="{top + 10}" text-anchor="end">{_text(name, 20)}</text>')
            end = start + room * max(int(b), int(f)) / longest + 4
            lines.append(f'<text x="{end:.1f}" y="{top + 10}">{f} / {b}</text>')
    return "\n".join(lines)
