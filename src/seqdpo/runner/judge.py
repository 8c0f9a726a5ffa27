"""Pairs of answers for a judge of the user's: a command that reads and writes a line of JSON a pair."""

import json
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from seqdpo.analysis.generations import WinRate, win_rate
from seqdpo.errors import ConfigError, DataError
from seqdpo.preferences.pairs import content_hash
from seqdpo.report.finished import Run
from seqdpo.study.checkpoints import BASE, Checkpoint
from seqdpo.wording import brief

#: What a win of the later checkpoint counts; a tie is half.
POINTS = {"later": 1.0, "tie": 0.5, "earlier": 0.0}


class Match(NamedTuple):
    """Two answers to one prompt; the judge sees them as a and b, in an order drawn by hash."""

    id: str
    seed: int
    objective: str
    earlier: str  # checkpoint
    later: str
    later_is_a: bool
    asked: dict[str, Any]  # the line for the judge


def win_rates(run: Run, command: str, confidence: float) -> list[WinRate]:
    """Each checkpoint's answers against those of the checkpoint before it, as the command judges them.

    The command reads lines `{"id", "prompt": [turns], "a", "b"}` and writes `{"id", "winner": "a" | "b" | "tie"}`, one
    for each, in any order.
    Raises: ConfigError if the command fails; DataError for what it answers.
    """
    assert run.generations is not None
    matches = list(_matches(run, run.generations))
    winners = _judged(command, matches)
    points: dict[tuple[int, str, str, str], list[float]] = {}
    for match in matches:
        key = match.seed, match.objective, match.earlier, match.later
        points.setdefault(key, []).append(POINTS[_side(match, winners[match.id])])
    return [WinRate(*key, len(values), *win_rate(values, confidence)) for key, values in points.items()]


def _matches(run: Run, generations: pa.Table) -> Iterator[Match]:
    rows = {(r["seed"], r["checkpoint"], r["objective"], r["pair_id"]): r["response"] for r in generations.to_pylist()}
    prompts = _prompts(run, generations)
    base_seed = min(seed for seed, *_ in rows)
    for (seed, name, objective, pair_id), response in rows.items():
        if name == BASE:
            continue
        later = Checkpoint.parse(name)
        earlier = later.upto(later.stage - 1).name
        before = rows[base_seed if earlier == BASE else seed, earlier, objective, pair_id]
        match_id = content_hash([seed, name, objective, pair_id])[:16]
        later_is_a = int(match_id, 16) % 2 == 0
        a, b = (response, before) if later_is_a else (before, response)
        asked = {"id": match_id, "prompt": prompts[objective, pair_id], "a": a, "b": b}
        yield Match(match_id, seed, objective, earlier, name, later_is_a, asked)


def _prompts(run: Run, generations: pa.Table) -> Mapping[tuple[str, str], list[dict[str, str]]]:
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    for objective in dict.fromkeys(generations["objective"].to_pylist()):
        ids = pa.array(
            dict.fromkeys(r["pair_id"] for r in generations.to_pylist() if r["objective"] == objective), pa.string()
        )
        texts = run.texts(objective, "eval", ids)
        found |= {(objective, i): turns for i, turns in zip(ids.to_pylist(), texts["prompt"].to_pylist(), strict=True)}
    return found


def _judged(command: str, matches: list[Match]) -> dict[str, str]:
    lines = "".join(json.dumps(match.asked, ensure_ascii=False) + "\n" for match in matches)
    try:
        done = subprocess.run(shlex.split(command), input=lines, capture_output=True, text=True, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--judge = {command!r}: cannot be run: {error}; expected a command.") from None
    if done.returncode:
        raise ConfigError(
            f"--judge = {command!r}: ended with {done.returncode}: {_last_line(done.stderr)}; "
            "expected 0. Try it on a line by hand."
        )
    winners = dict(_answer(command, number, line) for number, line in enumerate(done.stdout.splitlines(), 1) if line)
    missing = [match.id for match in matches if match.id not in winners]
    if missing:
        raise DataError(
            f"--judge = {command!r}: no answer on {len(missing)} of {len(matches)} pairs, {missing[0]} first; expected "
            "a line for each."
        )
    return winners


def _answer(command: str, number: int, line: str) -> tuple[str, str]:
    try:
        found = json.loads(line)
        winner, own = found["winner"], str(found["id"])
    except (ValueError, KeyError, TypeError):
        winner = own = None
    if winner not in ("a", "b", "tie") or own is None:
        raise DataError(
            f"--judge = {command!r}: line {number} of its output = {brief(line)}; expected "
            '{"id": …, "winner": "a", "b" or "tie"}.'
        )
    return own, winner


def _side(match: Match, winner: str) -> str:
    if winner == "tie":
        return "tie"
    return "later" if (winner == "a") == match.later_is_a else "earlier"


def _last_line(text: str) -> str:
    """Where a traceback says what happened."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "nothing said")
