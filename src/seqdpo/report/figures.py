"""The report's pictures as files for papers: SVG, PNG and PDF of the same specifications."""

from collections.abc import Iterable, Iterator
from importlib.util import find_spec

from seqdpo.errors import ConfigError
from seqdpo.report.pictures import Picture

VEGA_LITE = "6.4"
FORMATS = ("svg", "png", "pdf")


def figures(pictures: Iterable[Picture]) -> Iterator[tuple[str, str, bytes]]:
    """(name, format, content) of every picture; the same run gives the same bytes, but of PDF.

    Raises: ConfigError if vl-convert-python is not installed.
    """
    check_drawing()
    import vl_convert

    for picture in pictures:
        spec = picture.filled().vega_lite()
        for form in FORMATS:
            drawn = getattr(vl_convert, f"vegalite_to_{form}")(spec, vl_version=VEGA_LITE)
            yield picture.name, form, drawn.encode() if isinstance(drawn, str) else drawn


def check_drawing() -> None:
    """Raises: ConfigError if vl-convert-python is not installed."""
    if find_spec("vl_convert") is None:
        raise ConfigError(
            "--figures: vl-convert-python is not installed; expected it, to draw without a browser. "
            "Install it: pip install 'seqdpo[figures]'"
        )
