"""How every benchmark reports: a Markdown table on the screen, and a JSON file that names hardware and versions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqdpo.runner.environment import environment

FOLDER = Path(__file__).parent / "results"


def report(name: str, rows: Sequence[dict[str, Any]], notes: str) -> None:
    """Prints the rows, one column a key, and writes benchmarks/results/<name>.json."""
    print(f"\n{notes}\n")
    header = list(rows[0])
    print(f"| {' | '.join(header)} |")
    print(f"|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(_text(row[key]) for key in header)} |")
    FOLDER.mkdir(exist_ok=True)
    content = {"benchmark": name, "notes": notes, "rows": list(rows), "environment": environment()}
    (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
