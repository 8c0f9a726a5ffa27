"""How a run stands, wherever its stages run: from its events, the nodes' logs and the stages' records. No torch."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from seqdpo.errors import DataError
from seqdpo.files import read_mapping
from seqdpo.layout import NODE_FILE, TRAINED_FILE, check_run_folder
from seqdpo.runner.board import clock
from seqdpo.runner.events import read_events, seconds_between
from seqdpo.runner.folder import RunFolder
from seqdpo.study.audit import Audit
from seqdpo.study.checkpoints import Node, folder_name
from seqdpo.study.stored import read_stored
from seqdpo.study.tree import stage_tree

State = Literal["done", "running", "failed", "stopped", "waiting"]
MARKS: dict[State, tuple[str, str]] = {
    "done": ("✓", "green"),
    "running": ("▶", "bold"),
    "failed": ("✗", "red"),
    "stopped": ("‖", "yellow"),
    "waiting": ("·", "dim"),
}
GIB = 2**30


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node of the tree, over all times that it was begun."""

    name: str
    state: State
    seconds: float | None  # that some worker spent on it
    memory_bytes: int | None
    host: str | None
    device: str | None
    note: str

    @property
    def gpu_hours(self) -> float:
        """A worker has one device."""
        return 0.0 if self.device in (None, "cpu") else (self.seconds or 0.0) / 3600


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The whole run."""

    root: str
    coordinated: bool  # a process holds the run
    last: str  # of its own events
    nodes: list[NodeStatus]

    @property
    def gpu_hours(self) -> float:
        return sum(node.gpu_hours for node in self.nodes)

    @property
    def over(self) -> bool:
        """Nobody works on it now."""
        return not self.coordinated and all(node.state != "running" for node in self.nodes)


def run_status(folder: RunFolder) -> RunStatus:
    """Raises: ConfigError if the folder is no run's; DataError if its study cannot be read."""
    check_run_folder(folder)
    held, study = folder.held(), read_stored(folder)
    tree = stage_tree(study.tree() if isinstance(study, Audit) else study)
    nodes = [_node_status(folder, node, folder_name(node) in held) for node in [None, *tree]]
    own = [event for event in read_events(folder.events) if not event["event"].startswith("stage_")]
    last = f"{own[-1]['event'].replace('_', ' ')} at {own[-1]['time'][:19]} UTC" if own else "no events"
    return RunStatus(str(folder.root), folder.has_coordinator(), last, nodes)


def status_board(status: RunStatus) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    for name, justify in (("", "left"), ("stage", "left"), ("time", "right"), ("memory", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name in ("host", "device", "note"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for node in status.nodes:
        mark, style = MARKS[node.state]
        table.add_row(*(Text(text, style=style) for text in (mark, node.name, *_cells(node))))
    counts = [f"{sum(one.state == state for one in status.nodes)} {state}" for state in MARKS]
    found = ", ".join(count for count in counts if not count.startswith("0 "))
    head = f"{status.root}: {found}; {'a coordinator is at it' if status.coordinated else 'no coordinator'}"
    spent = clock(sum(node.seconds or 0.0 for node in status.nodes))
    return Group(Text(head), table, Text(f"last: {status.last}; {spent} of work, {status.gpu_hours:.2f} GPU-hours"))


def _cells(node: NodeStatus) -> list[str]:
    memory = f"{node.memory_bytes / GIB:.1f} GiB" if node.memory_bytes else ""
    return [
        clock(node.seconds) if node.seconds is not None else "",
        memory,
        node.host or "",
        node.device or "",
        node.note,
    ]


def _node_status(folder: RunFolder, node: Node | None, held: bool) -> NodeStatus:
    events = read_events(folder.node_log(node))
    record = _record(folder, node, NODE_FILE) or _record(folder, node, TRAINED_FILE)
    done = (folder.stage(node) / NODE_FILE).is_file()
    began: dict[str, Any] = next((event for event in reversed(events) if event["event"] == "began"), {})
    return NodeStatus(
        folder_name(node),
        _state(events, held, done),
        _seconds(events) if events else None,
        _peak_memory(record),
        began.get("host") or record.get("host"),
        began.get("device") or record.get("environment", {}).get("device"),
        "" if done else _note(events),
    )


def _peak_memory(record: dict[str, Any]) -> int | None:
    peaks = [record.get(f"{part}_peak_memory_bytes") for part in ("train", "measure")]
    return max((peak for peak in peaks if peak), default=None)


def _state(events: Sequence[dict[str, Any]], held: bool, done: bool) -> State:
    if done:
        return "done"
    if held:
        return "running"
    if not events:
        return "waiting"
    return "failed" if events[-1]["event"] == "failed" else "stopped"


def _seconds(events: Sequence[dict[str, Any]]) -> float:
    """Without the time between an interruption and the next beginning."""
    return sum(seconds_between(one, other) for one, other in pairwise(events) if other["event"] != "began")


def _note(events: Sequence[dict[str, Any]]) -> str:
    for event in reversed(events):
        match event["event"]:
            case "progress":
                return f"{event['pairs']:,} pairs"
            case "failed":
                return str(event["error"]).splitlines()[0]
    return ""


def _record(folder: RunFolder, node: Node | None, name: str) -> dict[str, Any]:
    with suppress(DataError):
        return dict(read_mapping(folder.stage(node) / name, json.loads))
    return {}
