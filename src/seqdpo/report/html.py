"""One HTML file from a template and what its scripts read: no network; every script is named by its hash."""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from seqdpo.report.numbers import interval, number, percent
from seqdpo.study.checkpoints import Checkpoint
from seqdpo.wording import visible

VENDORED = ("vega.min.js", "vega-lite.min.js", "vega-interpreter.js", "tabulator.min.js")
OWN = ("state.js", "charts.js", "table.js", "card.js", "main.js")


def html(template: str, payload: Mapping[str, Any], blurred: bool, **context: Any) -> str:
    """The whole of a file. `payload` is for the scripts; texts are blurred at first where they may be harmful."""
    scripts = [_asset("vendor", name) for name in VENDORED] + [_asset("assets", name) for name in OWN]
    environment = Environment(
        loader=PackageLoader("seqdpo.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"number": number, "interval": interval, "percent": percent, "breakable": breakable}
    return environment.get_template(template).render(
        **context,
        blurred=blurred,
        policy=_policy(scripts),
        scripts=[Markup(script) for script in scripts],
        styles=[Markup(_asset("vendor", "tabulator.min.css")), Markup(_asset("assets", "page.css"))],
        payload=_packed(payload),
    )


def _shown(value: Any) -> Any:
    """Text with a sign for what would turn its writing round; markup of ours stays."""
    return visible(value) if type(value) is str else value


def breakable(name: str) -> Markup:
    """A checkpoint's name, where a line may end after each objective."""
    return Markup("<wbr>").join(Checkpoint.parse(name).pieces)


def _asset(folder: str, name: str) -> str:
    """A script or style sheet; a closing tag in it would end its element."""
    text = files("seqdpo.report").joinpath(folder, name).read_text(encoding="utf-8")
    return text.replace("</script", "<\\/script").replace("</style", "<\\/style")


def _policy(scripts: Sequence[str]) -> str:
    """Nothing is fetched, and nothing runs but these scripts."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _packed(content: Mapping[str, Any]) -> str:
    """JSON in gzip in base64: a third of its size, and no text of it can be markup."""
    raw = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()
    return base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode()
