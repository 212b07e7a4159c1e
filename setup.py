"""What pyproject.toml cannot say: the published records go into a wheel as one compressed file, not as a thousand."""

import json
import lzma
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

#: A line a record: its file's name and its text. `mlbench.paths.published_records` unpacks it into the cache.
PACKED = "runs.jsonl.xz"


class BuildWithRecords(build_py):
    """Puts `PACKED` beside the other results; an editable installation has the folder itself."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        records = sorted((Path(__file__).parent / "results" / "runs").glob("*.json"))
        lines = "".join(json.dumps([path.name, path.read_text(encoding="utf-8")]) + "\n" for path in records)
        self._packed.parent.mkdir(parents=True, exist_ok=True)
        self._packed.write_bytes(lzma.compress(lines.encode(), preset=2))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *([] if self.editable_mode else [str(self._packed)])]

    @property
    def _packed(self) -> Path:
        return Path(self.build_lib) / "mlbench" / "results" / PACKED


setup(cmdclass={"build_py": BuildWithRecords})
