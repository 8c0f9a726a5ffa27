"""Logs of a run: one JSON object a line, in the order in which things happened; written by one process at a time."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def append_event(path: Path, event: str, **details: Any) -> None:
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **details}
    with path.open("a+b") as file:
        torn = file.tell() > 0 and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n"  # a killed process's line
        file.write((b"\n" if torn else b"") + json.dumps(line, ensure_ascii=False).encode() + b"\n")


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


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) and "event" in event and "time" in event else {}
