"""LaTeX text: escaping, and a whole document around a fragment."""

from __future__ import annotations

import unicodedata

_COMMANDS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    "`": r"\char96{}",
    # After "\\" of a table row, these two would be read as that command's options.
    "[": "{[}",
    "*": "{*}",
    "±": r"\ensuremath{\pm}",
    "×": r"\ensuremath{\times}",
    "≤": r"\ensuremath{\leq}",
    "≥": r"\ensuremath{\geq}",
    "≠": r"\ensuremath{\neq}",
    "≈": r"\ensuremath{\approx}",
    "−": r"\ensuremath{-}",
    "→": r"\ensuremath{\rightarrow}",
    "∞": r"\ensuremath{\infty}",
    "°": r"\ensuremath{^{\circ}}",
    "·": r"\ensuremath{\cdot}",
    "—": "---",
    "–": "--",
    "‐": "-",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
    "†": r"\ensuremath{\dagger}",
    "‡": r"\ensuremath{\ddagger}",
    "§": r"\S{}",
    "✓": r"\ensuremath{\surd}",
    "²": r"\ensuremath{^{2}}",
    "³": r"\ensuremath{^{3}}",
    "ß": r"\ss{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
    "µ": r"\ensuremath{\mu}",  # the sign; Greek letters follow below
    "α": r"\ensuremath{\alpha}",
    "β": r"\ensuremath{\beta}",
    "γ": r"\ensuremath{\gamma}",
    "δ": r"\ensuremath{\delta}",
    "Δ": r"\ensuremath{\Delta}",
    "ε": r"\ensuremath{\varepsilon}",
    "θ": r"\ensuremath{\theta}",
    "λ": r"\ensuremath{\lambda}",
    "μ": r"\ensuremath{\mu}",
    "σ": r"\ensuremath{\sigma}",
    "τ": r"\ensuremath{\tau}",
    "ω": r"\ensuremath{\omega}",
}
#: Accents that every LaTeX font encoding has, by combining character.
_ACCENTS = {
    **{"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": "."},
    **{"\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c"},
}
_JOINS = "-',`!?"  # side by side, these become other characters


def escape(text: str) -> str:
    """Return `text` as plain-ASCII LaTeX that prints as the same characters, whatever it holds.

    White space of any kind becomes one space each. A character no command is known for prints as its code
    point, ``[U+4E2D]``: it never stops the compilation and never disappears.
    """
    out: list[str] = []
    for char in unicodedata.normalize("NFC", text):
        piece = _one(char)
        if out and out[-1][-1] in _JOINS and piece[0] in _JOINS:
            out.append("{}")
        out.append(piece)
    return "".join(out)


def _one(char: str) -> str:
    if char in _COMMANDS:
        return _COMMANDS[char]
    if char.isspace():
        return " "
    if " " < char <= "~":
        return char
    apart = unicodedata.normalize("NFD", char)
    base, accents = apart[0], apart[1:]
    if accents in _ACCENTS and base.isascii() and base.isalpha():
        return rf"\{_ACCENTS[accents]}{{{base}}}"
    return f"{{[}}U+{ord(char):04X}]"


def document(body: str, width_mm: float = 210.0, height_mm: float = 297.0) -> str:
    """Wrap `body` in a document that ``pdflatex`` compiles: one page format, at least `width_mm` by `height_mm`."""
    return "\n".join(
        (
            r"\documentclass{article}",
            r"\usepackage[T1]{fontenc}",
            r"\usepackage{booktabs}",
            rf"\usepackage[paperwidth={max(width_mm, 210):.0f}mm,paperheight={max(height_mm, 297):.0f}mm,margin=15mm]"
            "{geometry}",
            r"\setlength{\parindent}{0pt}",
            r"\pagestyle{empty}",
            r"\begin{document}",
            body,
            r"\end{document}",
            "",
        )
    )
