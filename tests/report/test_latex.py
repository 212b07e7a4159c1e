from __future__ import annotations

import shutil
import string
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbench.report.latex import document, escape
from mlbench.report.tables import build_table

NASTY = [
    r"\input{x} 100% of $5 & #1_a^b~c {d}",
    "[1pt] first",
    "* star",
    "a--b ---c ''q'' ``q`` ?` !` ,,x <<y>>",
    'say "no" | <b>',
    "ResNet101* [67] ± 0.3 — 5×5 ≤ 6 ≥ 4 α=5 µm θ",
    "Gödel Čapek Ångström İstanbul Łódź naïve œuvre straße ő ç",
    "中文 🙂 \x07\x1b",
    "line\nbreak\ttab\u00a0nbsp\r\n\r\npar",
    "\u0301combining e\u0301",
    "%",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b", r"a\_b"),
        ("50%", r"50\%"),
        ("\\", r"\textbackslash{}"),
        ("{}", r"\{\}"),
        ("$&#", r"\$\&\#"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("1 ± 2", r"1 \ensuremath{\pm} 2"),
        ("—", "---"),
        ("--", "-{}-"),
        ("-—", "-{}---"),
        ("é", r"\'{e}"),
        ("e\u0301", r"\'{e}"),
        ("[*", "{[}{*}"),
        ("中", "{[}U+4E2D]"),
        ("", ""),
    ],
)
def test_characters_become_commands(text, expected):
    assert escape(text) == expected


@given(st.text())
def test_any_text_becomes_printable_ascii_with_balanced_braces_and_no_bare_special(text):
    out = escape(text)
    assert out.isascii()
    assert out.isprintable()
    depth, index = 0, 0
    while index < len(out):
        char = out[index]
        if char == "\\":
            index += 1
            assert out[index] in string.ascii_letters + "{}$&#%_'`^~=.\""
        else:
            depth += (char == "{") - (char == "}")
            assert depth >= 0
            assert char not in "$&#%_~"
            # A bare caret occurs in math only.
            assert char != "^" or out[:index].endswith("\\ensuremath{")
        index += 1
    assert depth == 0


def test_a_fragment_is_a_booktabs_tabular(make_record):
    text = build_table([make_record("an_x", 60.0)]).to_latex()
    assert text.startswith(r"\begin{tabular}{lr}")
    assert r"an\_x & \textbf{60.0 (1)} \\" in text
    assert r"\documentclass" not in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_documents_with_nasty_names_compile(tmp_path, make_record):
    records = [make_record(name, 60.0 + i) for i, name in enumerate(NASTY)]
    records += [
        make_record("full", 80.0),
        *(make_record("an", 50.0, r, identity__dataset__id="coco2014") for r in (0, 1)),
    ]
    (tmp_path / "table.tex").write_text(build_table(records).to_latex(document=True), encoding="ascii")
    (tmp_path / "plain.tex").write_text(document("\\par\n".join(map(escape, NASTY))), encoding="ascii")
    for name in ("table", "plain"):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", f"{name}.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False)
        log = done.stdout.decode("latin-1")
        assert done.returncode == 0, log[-2000:]
        assert "Overfull" not in log
        assert "Missing character" not in log
        assert (tmp_path / f"{name}.pdf").stat().st_size > 1000
