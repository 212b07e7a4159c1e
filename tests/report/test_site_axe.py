"""No serious fault of accessibility. `MLBENCH_AXE` names the axe.min.js of axe-core (npm install axe-core)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_site_browser import BOARD, browser, open_page, site  # noqa: F401  (fixtures)

AXE = os.environ.get("MLBENCH_AXE", "")
if not Path(AXE).is_file():
    pytest.skip("MLBENCH_AXE names no axe.min.js", allow_module_level=True)
_RUN = """
const done = arguments[0];
axe.run().then((found) => done(found.violations
  .filter((fault) => ["serious", "critical"].includes(fault.impact))
  .map((fault) => `${fault.id}: ${fault.nodes[0].html}`)));
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "name", ["index.html", "boards.html", BOARD, "methods/llr.html", "changes.html", "search.html", "run"]
)
def test_axe_finds_no_serious_fault(open_page, site, name: str, scheme: str) -> None:  # noqa: F811
    name = name if name != "run" else next((site / "runs").glob("*.html")).relative_to(site).as_posix()
    page = open_page(name, (1400, 1000), prefers_color_scheme=scheme)
    page.execute_script(Path(AXE).read_text(encoding="utf-8"))
    page.set_script_timeout(180)
    assert page.execute_async_script(_RUN) == []
