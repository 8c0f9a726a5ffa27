"""The pairs of one objective between two checkpoints: a row for each, to choose from and to sort."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqdpo.analysis.changes import FLIPS, pair_changes
from seqdpo.analysis.margins import Column
from seqdpo.analysis.panel import At, Mask, Panel
from seqdpo.errors import ArgumentError
from seqdpo.study.checkpoints import in_a_shell, parse_order
from seqdpo.tables import SLICE_PREFIX
from seqdpo.wording import did_you_mean, listed

Sort = Literal["change", "margin"]
#: What each way to sort goes by, ascending: the pairs that lost most, or stand worst, come first.
SORT_COLUMNS: dict[Sort, str] = {"change": "change", "margin": "margin_after"}
MAX_LISTED = 20
MAX_COMPARED = 1000  # names; to find the nearest takes a while


class Step(NamedTuple):
    """Two checkpoints of one seed, between which every pair is looked at."""

    start: At
    end: At


def choose_step(
    panel: Panel,
    start: str | None = None,
    end: str | None = None,
    order: str | None = None,
    seed: int | None = None,
) -> Step:
    """The two checkpoints that are meant; each may be named as in `helpful>harmless~placebo1`.

    Without names: from the checkpoint that taught the objective to the last of the first order that goes on after it.
    A name stands for the same checkpoint in every order that has it.

    Raises: ArgumentError for an unknown seed, order or checkpoint, and where a name is needed.
    """
    seeds = list(dict.fromkeys(at.seed for at in panel.checkpoints))
    seed = seeds[0] if seed is None else int(expect_one_of("seed", str(seed), map(str, seeds)))
    orders = [name for of_seed, name in panel.orders() if of_seed == seed]
    orders = orders if order is None else [expect_one_of("order", order, orders)]
    named: dict[str, At] = {}
    for at in sorted(panel.checkpoints, key=lambda at: orders.index(at.order) if at.order in orders else -1):
        if at.seed == seed and at.order in orders:
            named.setdefault(panel.names[at], at)
    known = list(named)
    given = [expect_one_of(which, name, known) for which, name in (("start", start), ("end", end)) if name is not None]
    if start is None or end is None:
        taught, last = _taught_and_last(panel, seed, orders, given, known)
        start, end = start or taught, end or last
    if start == end:
        raise ArgumentError(["start", "end"], f": both are {start!r}; expected two checkpoints. {_name_two(known)}")
    return Step(named[start], named[end])


def pair_table(panel: Panel, step: Step) -> pa.Table:
    """A row for each pair of the panel; undefined is null. docs/commands.md describes the columns.

    Margins and changes in nats, those with `ln_` in nats a token; change is after less before. Of a panel in another
    measure, `margin_…`, `change` and `flip` are of that, as `measure` says.
    """
    before, after = panel.checkpoints[step.start], panel.checkpoints[step.end]
    changes = pair_changes(before, after)
    n = len(panel.pair_ids)
    constant = {
        "seed": pa.scalar(step.end.seed, pa.int64()),
        "objective": panel.objective,
        "split": panel.split,
        "measure": panel.measure,
        "from": panel.names[step.start],
        "to": panel.names[step.end],
    }
    columns = {
        "pair_id": panel.pair_ids,
        **{name: pa.repeat(value, n) for name, value in constant.items()},
        "margin_before": _nullable(before.margin),
        "margin_after": _nullable(after.margin),
        "change": _nullable(changes.margin_change),
        "ln_margin_before": _nullable(before.ln_margin),
        "ln_margin_after": _nullable(after.ln_margin),
        "chosen_logp_change": _nullable(changes.chosen_change),
        "rejected_logp_change": _nullable(changes.rejected_change),
        "flip": pa.array(FLIPS).take(pa.array(changes.flip, mask=changes.flip < 0)),
    }
    others = {name: panel.metadata[name] for name in panel.metadata.column_names if name not in columns}
    return pa.table(columns | others)


def ranked(table: pa.Table, by: Sort) -> pa.Table:
    """The rows in ascending order, undefined ones last; pairs that are level by their id."""
    return table.sort_by([(SORT_COLUMNS[by], "ascending"), ("pair_id", "ascending")])


def meeting(metadata: pa.Table, conditions: Sequence[str]) -> Mask:
    """Which pairs meet every condition `COLUMN=VALUE`: numbers as numbers, everything else as text; null meets none.

    `category=x` finds the column `slice_category`, too.

    Raises: ArgumentError for an unknown column, and for a value that no pair has.
    """
    kept = np.ones(metadata.num_rows, dtype=np.bool_)
    for condition in conditions:
        kept &= _meeting(metadata, condition)
    return kept


def expect_one_of(argument: str, value: str, known: Iterable[str]) -> str:
    """The value of an argument, if it is known.

    Raises: ArgumentError that lists what is, and says what may be meant.
    """
    names = list(known)
    if value not in names:
        raise ArgumentError([argument], f" = {value!r}: not in this run; expected {_one_of(names, value)}")
    return value


def _taught_and_last(
    panel: Panel, seed: int, orders: Sequence[str], given: Sequence[str], known: Sequence[str]
) -> tuple[str, str]:
    """The checkpoint that taught the objective and the last one, in the first order that goes on after it."""
    for order in orders:
        path, stages = parse_order(order), panel.stages(seed, order)
        names = {panel.names[at] for at in panel.checkpoints if (at.seed, at.order) == (seed, order)}
        taught = path.index(panel.objective) + 1 if panel.objective in path else len(path)
        if taught in stages[:-1] and names.issuperset(given):
            return panel.names[At(seed, order, taught)], panel.names[At(seed, order, stages[-1])]
    having = f" and has {listed(given)}" if given else ""
    raise ArgumentError(
        ["start", "end"],
        f": not both given, and for objective = {panel.objective!r} no order here goes on after it{having}; expected "
        f"two checkpoints. {_name_two(known)}",
    )


def _name_two(known: Sequence[str]) -> str:
    return f"Name two of {listed(known)}.{in_a_shell(known)}"


def _meeting(metadata: pa.Table, condition: str) -> Mask:
    name, equals, value = condition.partition("=")
    if not equals:
        raise ArgumentError(["where"], f" = {condition!r}: no '='; expected COLUMN=VALUE. Give both.")
    if name not in metadata.column_names:
        columns = [known.removeprefix(SLICE_PREFIX) for known in metadata.column_names]
        if name not in columns:
            raise ArgumentError(["where"], f", column = {name!r}: not in this run; expected {_one_of(columns, name)}")
        name = SLICE_PREFIX + name
    met = _equal(metadata[name], value, condition)
    if metadata.num_rows and not met.any():
        raise ArgumentError(["where"], f" = {condition!r}: no pair has it; expected {_values(metadata[name], value)}")
    return met


def _equal(column: pa.ChunkedArray, value: str, condition: str) -> Mask:
    if _holds_numbers(column):
        try:
            equal = pc.equal(column.cast(pa.float64()), float(value))
        except ValueError:
            problem = f" = {condition!r}: expected a number, as this column holds. Give one."
            raise ArgumentError(["where"], problem) from None
    else:
        value = value.lower() if pa.types.is_boolean(column.type) else value
        equal = pc.equal(column.cast(pa.string()), value)  # Arrow writes true and false
    return pc.fill_null(equal, False).to_numpy()


def _values(column: pa.ChunkedArray, value: str) -> str:
    """What a column holds: its values where they are few, else its range or some of them."""
    found = pc.unique(column).drop_null()
    if not _holds_numbers(column):
        return _one_of(sorted(found.cast(pa.string()).to_pylist()), value)
    if len(found) > MAX_LISTED:
        ends = pc.min_max(found).as_py()
        return f"a number from {ends['min']:g} to {ends['max']:g} that one has."
    return _one_of([f"{number:g}" for number in sorted(found.to_pylist())], value)


def _holds_numbers(column: pa.ChunkedArray) -> bool:
    return pa.types.is_integer(column.type) or pa.types.is_floating(column.type)


def _one_of(names: Sequence[str], value: str) -> str:
    more = f" and {len(names) - MAX_LISTED:,} more" if len(names) > MAX_LISTED else ""
    return f"one of {listed(names[:MAX_LISTED])}{more}.{did_you_mean(value, names[:MAX_COMPARED])}{in_a_shell(names)}"


def _nullable(values: Column) -> pa.Array:
    return pa.array(values, from_pandas=True)  # NaN becomes null
