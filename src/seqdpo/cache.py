"""Where what was made once and can be made again is kept between runs."""

import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory


def cache_dir() -> Path:
    """`$SEQDPO_CACHE`, else `~/.cache/seqdpo`; the folder may not exist yet.

    A user without a home, as in containers under an arbitrary user id, has one for as long as the process lives.
    """
    named = os.environ.get("SEQDPO_CACHE")
    try:
        return Path(named or "~/.cache/seqdpo").expanduser()
    except RuntimeError:  # no such home
        return Path(named or _until_the_end().name)


@cache
def _until_the_end() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="seqdpo-")
