"""Logs of a run: one JSON object a line, in the order in which things happened; written by one process at a time."""

import json
import logging
import os
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import seqdpo

#: The logger that says which log cannot be written.
LOG = f"{seqdpo.__name__}.events"


def append_event(path: Path, event: str, **details: Any) -> None:
    """Appends one line; if that cannot be done, it is said once, and the work goes on."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **details}
    try:
        _append(path, json.dumps(line, ensure_ascii=False).encode())
    except OSError as error:
        _say_unwritten(path, error.strerror or str(error))


def read_events(path: Path, start: int = 0) -> list[dict[str, Any]]:
    """The lines of a log that are whole, from a byte on; none where there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            lines = file.read().splitlines()
    except OSError:
        return []
    return [event for event in map(_parsed, lines) if event]


def seconds_between(earlier: dict[str, Any], later: dict[str, Any]) -> float:
    began, ended = (datetime.fromisoformat(event["time"]) for event in (earlier, later))
    return (ended - began).total_seconds()


def _append(path: Path, line: bytes) -> None:
    with path.open("a+b") as file:
        torn = file.tell() > 0 and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n"  # a killed process's line
        file.write((b"\n" if torn else b"") + line + b"\n")


@cache
def _say_unwritten(path: Path, reason: str) -> None:
    logging.getLogger(LOG).warning("%s: cannot be written (%s); what happens is not kept there.", path, reason)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) and "event" in event and "time" in event else {}
