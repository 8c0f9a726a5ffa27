"""Draws docs/images/demo.svg from a finished demo: python docs/make_demo_picture.py (after make demo)."""

import re
from io import StringIO
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from seqdpo.report.finished import read_run
from seqdpo.report.print_findings import print_results
from seqdpo.study.settings import SETTINGS

SHOWN = "lab-conflict"
DOCS = Path(__file__).parent


def main() -> None:
    console = Console(record=True, width=84, file=StringIO())
    console.rule(f"{SHOWN}: {SETTINGS[SHOWN].relation.split(':')[0]}", align="left")
    print_results(console, read_run(DOCS.parent / "runs" / "demo" / SHOWN).findings)
    target = DOCS / "images" / "demo.svg"
    target.parent.mkdir(exist_ok=True)
    # rich would fetch a font from the network; the reader's own will do
    code_format = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    target.write_text(console.export_svg(title="seqdpo demo", code_format=code_format), encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main()
