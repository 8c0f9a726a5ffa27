"""Scores that were made elsewhere, in the form of docs/scores.md, as the tables that the analysis takes."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from seqdpo.errors import DataError
from seqdpo.study.checkpoints import BASE, Checkpoint, typed
from seqdpo.tables import PAIRS_SCHEMA, SCORES_SCHEMA, SLICE_PREFIX
from seqdpo.wording import brief, did_you_mean, listed

_TOKENS = ("chosen_tokens", "rejected_tokens")
_NEEDED = ("objective", "checkpoint", "pair_id", "chosen_logp", "rejected_logp", *_TOKENS)
_BASES = ("base_chosen_logp", "base_rejected_logp")
_OPTIONAL = (*_BASES, "seed", "prompt_id", "prompt", "chosen", "rejected")
#: Columns of scores.parquet that say again what the others say.
_REPEATED = ("order", "stage", "placebo", "split")
_REMEDY = "docs/scores.md has the form."


class GivenScores(NamedTuple):
    """SCORES_SCHEMA and PAIRS_SCHEMA, the latter with a column for each slice."""

    scores: pa.Table
    pairs: pa.Table


class _Pair(NamedTuple):
    objective: str
    pair_id: str


class _Logps(NamedTuple):
    chosen: float
    rejected: float


#: What each checkpoint of each seed says of each pair; the base is in it under its own name, for any seed.
_Scored = dict[tuple[int, Checkpoint], dict[_Pair, _Logps]]


def given_scores(rows: Iterable[Mapping[str, Any]], where: str) -> GivenScores:
    """The tables of rows, one for each checkpoint and pair.

    Raises: DataError that names the row for a column that is missing or of the wrong kind, a pair that stands twice,
        other pairs than at the base, or a checkpoint that is missing on the way to another.
    """
    scored: _Scored = {}
    pairs: dict[_Pair, dict[str, Any]] = {}
    bases: dict[_Pair, _Logps] = {}
    for number, values in enumerate(rows, 1):
        row = _Row(values, f"{where}, row {number}")
        pair, at = row.pair(), row.checkpoint()
        own = scored.setdefault((0 if at.stage == 0 else row.seed(), at), {})
        logps = row.logps("chosen_logp", "rejected_logp")
        # scores.parquet has a checkpoint's rows under every order
        if own.setdefault(pair, logps) != logps:
            raise row.error(f"pair {pair.pair_id!r} stands twice at {at.name!r}, with other numbers; expected once")
        if (base := row.base()) is not None and bases.setdefault(pair, base) != base:
            raise row.error(f"the base's log-probabilities of {pair.pair_id!r} are not those of an earlier row")
        known, found = pairs.setdefault(pair, {}), row.of_pair(pair)
        if any(known.get(name, found[name]) != found[name] for name in _TOKENS):
            raise row.error(f"the tokens of {pair.pair_id!r} are not those of an earlier row")
        known |= {name: value for name, value in found.items() if known.get(name) in (None, "", [])}
    at_base = scored.pop((0, Checkpoint(())), {})
    bases = {**bases, **at_base}
    _check_whole(scored, bases, pairs, where)
    for pair, known in pairs.items():
        known["prompt_id"] = known["prompt_id"] or pair.pair_id
    table = pa.Table.from_pylist([*_score_rows(scored, bases, pairs)], schema=SCORES_SCHEMA)
    return GivenScores(table, _pairs_table([*pairs.values()]))


class _Row:
    """A row; every getter raises a DataError that says where it stands."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values, self._where = values, where
        for name in _NEEDED:
            if name not in values:
                near = did_you_mean(name, [*values])
                raise self.error(f"no {name}; expected {', '.join(_NEEDED)}. Found {listed(values)}.{near}")

    def error(self, problem: str) -> DataError:
        ended = problem if problem.endswith((".", "?")) else f"{problem}."
        return DataError(f"{self._where}: {ended} {_REMEDY}")

    def pair(self) -> _Pair:
        return _Pair(self._text("objective"), self._text("pair_id"))

    def checkpoint(self) -> Checkpoint:
        name = typed(self._text("checkpoint"))
        try:
            found = Checkpoint.parse(name)
        except ValueError as error:
            raise self.error(str(error)) from None
        if not all(found.path) or BASE in found.path or (found.placebo and found.stage < 2):
            raise self.error(f"checkpoint = {name!r}; expected 'base', or objectives as in 'helpful>harmless'")
        return found

    def seed(self) -> int:
        return self._whole("seed", 0) or 0

    def logps(self, *names: str) -> _Logps:
        return _Logps(*(self._logp(name) for name in names))

    def base(self) -> _Logps | None:
        there = [name for name in _BASES if self._values.get(name) is not None]
        if len(there) == 1:
            raise self.error(f"{there[0]} without the other; expected both of {', '.join(_BASES)}, or rows of 'base'")
        return self.logps(*_BASES) if there else None

    def of_pair(self, pair: _Pair) -> dict[str, Any]:
        """The pair's row of the pairs table."""
        slices = {
            f"{SLICE_PREFIX}{name.removeprefix(SLICE_PREFIX)}": value
            for name, value in self._values.items()
            if name not in (*_NEEDED, *_OPTIONAL, *_REPEATED) and isinstance(value, str | int | float)
        }
        given = self._values.get("prompt_id")
        return {
            **pair._asdict(),
            "prompt_id": None if given is None else str(given),
            "split": "eval",
            "prompt": self._prompt(),
            **{name: self._values.get(name) or "" for name in ("chosen", "rejected")},
            **{name: self._tokens(name) for name in _TOKENS},
            "truncated": False,
            **slices,
        }

    def _prompt(self) -> list[dict[str, str]]:
        prompt = self._values.get("prompt") or []
        if isinstance(prompt, str):
            return [{"role": "user", "content": prompt}]
        kept = ("role", "content")
        if not isinstance(prompt, list) or not all(isinstance(m, dict) and m.keys() >= {*kept} for m in prompt):
            raise self.error(f"prompt = {brief(prompt)}; expected text, or messages with role and content")
        return [{key: str(message[key]) for key in kept} for message in prompt]

    def _text(self, name: str) -> str:
        value = self._values[name]
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise self.error(f"{name} = {brief(value)}; expected text")
        return str(value)

    def _tokens(self, name: str) -> int:
        found = self._whole(name, 1)
        if found is None:
            raise self.error(f"{name} = None; expected a whole number from 1")
        return found

    def _whole(self, name: str, least: int) -> int | None:
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < least:
            raise self.error(f"{name} = {brief(value)}; expected a whole number from {least}")
        return int(value)

    def _logp(self, name: str) -> float:
        value = self._values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value > 0:
            raise self.error(f"{name} = {brief(value)}; expected a sum of log-probabilities in nats, at most 0")
        return float(value)


def _check_whole(scored: _Scored, bases: Mapping[_Pair, _Logps], pairs: Mapping[_Pair, Any], where: str) -> None:
    """Raises: DataError if the base or a checkpoint lacks pairs, or a checkpoint lacks one that it goes on from."""
    if not scored:
        raise DataError(f"{where}: no checkpoint but the base; expected one that was trained. {_REMEDY}")
    without = next((pair for pair in pairs if pair not in bases), None)
    if without is not None:
        raise DataError(
            f"{where}: nothing of the base on pair {without.pair_id!r} ({without.objective}); expected rows of "
            f"checkpoint 'base', or {' and '.join(_BASES)}. {_REMEDY}"
        )
    for (seed, at), own in scored.items():
        missing = [pair for pair in pairs if pair not in own]
        if missing:
            raise DataError(
                f"{where}: checkpoint {at.name!r} (seed {seed}) has {len(own)} of {len(pairs)} pairs, not "
                f"{missing[0].pair_id!r} ({missing[0].objective}); expected every pair at every checkpoint. {_REMEDY}"
            )
        before = [at.upto(k) for k in range(1, at.stage + bool(at.placebo))]
        gap = next((one for one in before if (seed, one) not in scored), None)
        if gap is not None:
            raise DataError(
                f"{where}: checkpoint {at.name!r} (seed {seed}) is there, {gap.name!r} is not; expected every "
                f"checkpoint on the way to it. {_REMEDY}"
            )


def _score_rows(
    scored: _Scored, bases: Mapping[_Pair, _Logps], pairs: Mapping[_Pair, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Each order and seed: the base, then every checkpoint on the way, with its control stages."""
    for seed in dict.fromkeys(seed for seed, _ in scored):
        here = {at: own for (of, at), own in scored.items() if of == seed}
        for order in _orders([at for at in here if not at.placebo]):
            on_the_way = sorted(at for at in here if order.upto(at.stage) == at._replace(placebo=0))
            for at, own in [(Checkpoint(()), bases), *((at, here[at]) for at in on_the_way)]:
                yield from (
                    _score_row(seed, order.name, at, pair, own[pair], bases[pair], pairs[pair]) for pair in pairs
                )


def _orders(real: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The checkpoints that no other one goes on from."""
    return [at for at in real if not any(at != other and other.upto(at.stage) == at for other in real)]


def _score_row(
    seed: int, order: str, at: Checkpoint, pair: _Pair, own: _Logps, base: _Logps, more: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "seed": seed,
        "order": order,
        "stage": at.stage,
        "checkpoint": at.name,
        "placebo": at.placebo,
        "objective": pair.objective,
        "split": "eval",
        "pair_id": pair.pair_id,
        "chosen_logp": own.chosen,
        "rejected_logp": own.rejected,
        "base_chosen_logp": base.chosen,
        "base_rejected_logp": base.rejected,
        **{name: more[name] for name in _TOKENS},
    }


def _pairs_table(rows: list[dict[str, Any]]) -> pa.Table:
    table = pa.Table.from_pylist(rows, schema=PAIRS_SCHEMA)
    for name in dict.fromkeys(name for row in rows for name in row if name.startswith(SLICE_PREFIX)):
        values = [row.get(name) for row in rows]
        mixed = len({isinstance(value, str) for value in values if value is not None}) > 1
        table = table.append_column(
            name, pa.array([value if value is None or not mixed else str(value) for value in values])
        )
    return table
