"""From the gradients at the points of a stage to what can be said of opposition: docs/mechanism.md has every key.

A cosine of two noisy gradients is the true one times sqrt(reliability * reliability), so "near zero" is what noise
alone reads. The corrected cosine divides by what two disjoint batches share: it alone can show that gradients are
near-orthogonal, or that they are not. Which side of 0 it lies on is asked of the uncorrected cosines, point by point,
which do not divide by noise.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqdpo.analysis import points
from seqdpo.analysis.estimates import Estimate, defined, mean
from seqdpo.analysis.margins import Column, PairScores
from seqdpo.analysis.nodes import NodeKey, checkpoint_scores, tables_of
from seqdpo.analysis.panel import Panel
from seqdpo.analysis.points import Blocks, Cosine, PointEstimate, Points
from seqdpo.analysis.schema import (
    Account,
    Books,
    Gradients,
    LayerGradients,
    ModuleGradients,
    Opposition,
    PointInterval,
    Reliability,
    Side,
    TracePoint,
)
from seqdpo.errors import DataError
from seqdpo.study.checkpoints import Node, checkpoint_of, reference_of
from seqdpo.study.keys import LossKeys
from seqdpo.study.losses import NUMPY, loss_of, rewards

#: The rows of the whole adapter, and of all modules of a layer.
ALL, LAYER = "(all)", "(layer)"
#: A cosine within +-this is near 0: at most 1% of the squared norm of either gradient lies along the other.
NEAR_ORTHOGONAL = 0.1
SCOPE = (
    "this stage, at the points that were measured; the loss of pairs that the policy is sure of has next to no gradient"
)


class Trace(NamedTuple):
    """The points of one stage and earlier objective; columns (n_points, n_groups), NaN where undefined."""

    steps: list[int]
    n_pairs: int  # of one half
    groups: list[tuple[str, int | None]]  # module and layer; the whole adapter first
    blocks: Blocks  # (n_points,) whose pairs each point read
    dot: Points
    current_squared_norm: Points
    current_split_dot: Points
    earlier_squared_norm: Points
    earlier_split_dot: Points
    preconditioned_dot: Points
    update_dot: Points

    @property
    def raw_cosines(self) -> Points:
        """What one batch against one batch reads at each point."""
        return _cosine(self.dot, self.current_squared_norm, self.earlier_squared_norm)


#: The fields of a trace that are columns of the table.
_COLUMNS = Trace._fields[4:]


def gradient_records(
    gradients: pa.Table, panels: Sequence[Panel], keys: LossKeys, confidence: float
) -> list[Gradients]:
    """One record for each later stage and earlier objective of gradients.parquet, control stages among them.

    `panels` are those of the evaluation split; `keys` are of the loss that the stages minimised.

    Raises: DataError if a point lacks a module, or the scores lack a checkpoint.
    """
    traces = {
        (node, panel.objective): trace_of(own)
        for node, table in tables_of(gradients)
        for panel in panels
        if (own := table.filter(pc.field("objective") == panel.objective)).num_rows
    }
    of = {panel.objective: panel for panel in panels}
    return [
        _record(node, name, trace, _control_of(node, name, traces), loss_change(node, of[name], keys), confidence)
        for (node, name), trace in traces.items()
    ]


def trace_of(table: pa.Table) -> Trace:
    """The rows of one stage and earlier objective as columns by point.

    Raises: DataError if a point lacks a module.
    """
    steps = sorted(set(table["step"].to_pylist()))
    rows = table.sort_by([("step", "ascending")])
    first = rows.slice(0, rows.num_rows // len(steps))
    groups = list(zip(first["module"].to_pylist(), first["layer"].to_pylist(), strict=True))
    found = list(zip(rows["module"].to_pylist(), rows["layer"].to_pylist(), strict=True))
    if found != groups * len(steps) or groups[0][0] != ALL:
        raise DataError(
            f"gradients: {rows.num_rows} rows for {len(steps)} points; expected the same modules at each, {ALL} first. "
            "Use the table as the run wrote it."
        )
    columns = [rows[name].to_numpy().reshape(len(steps), len(groups)) for name in _COLUMNS]
    return Trace(steps, int(rows["n_pairs"][0].as_py()), groups, _blocks(rows, len(groups)), *columns)


def _blocks(rows: pa.Table, n_groups: int) -> Blocks:
    named = rows["block"]
    if named.null_count:
        return points.UNKNOWN
    return np.unique(named.to_numpy()[::n_groups], return_inverse=True)[1]


def loss_change(node: NodeKey, panel: Panel, keys: LossKeys) -> Estimate:
    """The change of an earlier objective's mean loss over a stage, as the stage that taught it counts it.

    Undefined with `ld_alpha`: the scores are sums over all tokens, and the loss weighs some of them less.
    """
    teacher = Node(node.seed, node.path[: node.path.index(panel.objective) + 1])
    at_reference = checkpoint_scores(panel, node.seed, checkpoint_of(reference_of(teacher, keys.reference)))
    before, after = (
        _losses(checkpoint_scores(panel, node.seed, name), at_reference, keys)
        for name in (node.parent, node.checkpoint)
    )
    return mean(after - before, panel.clusters)


def corrected_cosine(trace: Trace) -> Cosine:
    """The cosine of the gradients without the noise of the batches, for each group."""
    return points.cosine(_norm, trace.blocks, trace.dot, trace.current_split_dot, trace.earlier_split_dot)


def _control_of(node: NodeKey, objective: str, traces: Mapping[tuple[NodeKey, str], Trace]) -> Trace | None:
    """The trace of a real stage's control stage, at the same points and on the same pairs of the earlier objective."""
    own = traces[node, objective]
    alike = (
        trace
        for (other, name), trace in traces.items()
        if name == objective and other.placebo and not node.placebo and other.beside(node)
    )
    return next((one for one in alike if one.steps == own.steps and np.array_equal(one.blocks, own.blocks)), None)


def _record(
    node: NodeKey, objective: str, trace: Trace, control: Trace | None, actual: Estimate, confidence: float
) -> Gradients:
    raw = trace.raw_cosines[:, :1]
    at_points = _average_of_defined(raw, trace.blocks)
    cosine = corrected_cosine(trace)
    whole, *groups = _groups(trace, confidence)
    named = list(zip(trace.groups[1:], groups, strict=True))
    return Gradients(
        seed=node.seed,
        from_=node.parent,
        to=node.checkpoint,
        placebo=node.placebo,
        objective=objective,
        n_points=len(trace.steps),
        n_blocks=at_points.n_blocks,
        pairs_per_batch=trace.n_pairs,
        raw_cosine=whole.raw_cosine,
        reliability=whole.reliability,
        cosine=whole.cosine,
        point_cosine=at_points.record(0, confidence),
        beyond_control=None
        if control is None
        else _average_of_defined(raw - control.raw_cosines[:, :1], trace.blocks).record(0, confidence),
        near_orthogonal=NEAR_ORTHOGONAL,
        statement=opposition(cosine.interval(0, 2 * confidence - 1)),
        side=_side(at_points.interval(0, confidence)),
        share_below_zero=float(np.mean(trace.dot[:, 0] < 0)),
        preconditioned_dot=_average_of_defined(trace.preconditioned_dot[:, :1], trace.blocks).record(0, confidence),
        account=_account(points.total(trace.update_dot[:, :1], trace.blocks), actual, confidence),
        trace=_by_point(trace),
        layers=tuple(LayerGradients(layer=layer, **of._asdict()) for (name, layer), of in named if name == LAYER),
        modules=tuple(ModuleGradients(module=name, **of._asdict()) for (name, _), of in named if name != LAYER),
        scope=SCOPE,
    )


class _Group(NamedTuple):
    """What can be said of the adapter, a layer or a module over the whole stage."""

    raw_cosine: float | None
    reliability: Reliability
    cosine: PointInterval
    update_dot: float | None


def _groups(trace: Trace, confidence: float) -> list[_Group]:
    """The whole stage, for each module, layer, and the adapter."""
    cosine = corrected_cosine(trace)
    sums = [getattr(trace, name).sum(axis=0) for name in _COLUMNS]
    dot, current, current_split, earlier, earlier_split, _, update = sums
    raw = _cosine(dot, current, earlier)
    return [
        _Group(
            defined(raw[i]),
            Reliability(current=_share(current_split[i], current[i]), earlier=_share(earlier_split[i], earlier[i])),
            cosine.record(i, confidence),
            defined(update[i]),
        )
        for i in range(len(trace.groups))
    ]


def _account(predicted: PointEstimate, actual: Estimate, confidence: float) -> Account:
    promised, came = predicted.interval(0, confidence), actual.interval(confidence)
    settled = came[0] > 0 or came[1] < 0
    return Account(
        predicted=predicted.record(0, confidence),
        actual=actual.record(confidence),
        share=defined(float(predicted.value[0]) / actual.value) if settled else None,
        statement=_books(_side(promised), _side(came)),
    )


def _books(promised: Side, came: Side) -> Books:
    if "open" in (promised, came):
        return "unresolved"
    return "confirmed" if promised == came else "contradicted"


def opposition(interval: tuple[float, float]) -> Opposition:
    """What the corrected cosine's interval shows beside +-NEAR_ORTHOGONAL; of the confidence that agrees with one-sided
    tests at the level."""
    low, high = interval
    if high < -NEAR_ORTHOGONAL:
        return "opposed"
    if low > NEAR_ORTHOGONAL:
        return "aligned"
    return "near-orthogonal" if low > -NEAR_ORTHOGONAL and high < NEAR_ORTHOGONAL else "unresolved"


def _side(interval: tuple[float, float]) -> Side:
    """Which side of 0 an interval lies on."""
    low, high = interval
    if high < 0:
        return "below 0"
    return "above 0" if low > 0 else "open"


def _by_point(trace: Trace) -> tuple[TracePoint, ...]:
    corrected = np.clip(_cosine(trace.dot, trace.current_split_dot, trace.earlier_split_dot)[:, 0], -1, 1)
    raw = trace.raw_cosines[:, 0]
    return tuple(
        TracePoint(
            step=step,
            dot=defined(trace.dot[k, 0]),
            current_norm=math.sqrt(trace.current_squared_norm[k, 0]),
            earlier_norm=math.sqrt(trace.earlier_squared_norm[k, 0]),
            raw_cosine=defined(raw[k]),
            cosine=defined(corrected[k]),
            preconditioned_dot=defined(trace.preconditioned_dot[k, 0]),
            update_dot=defined(trace.update_dot[k, 0]),
        )
        for k, step in enumerate(trace.steps)
    )


def _cosine(dot: Points, one: Points, other: Points) -> Points:
    """dot / sqrt(one * other); NaN unless both are above 0: no angle can be told from noise alone."""
    both = np.where((one > 0) & (other > 0), one * other, np.nan)
    cosine: Points = dot / np.sqrt(both)
    return cosine


def _norm(one: Points, other: Points) -> Points:
    """sqrt(one * other), 0 unless both are above 0."""
    norm: Points = np.sqrt(np.maximum(one, 0) * np.maximum(other, 0))
    return norm


def _average_of_defined(values: Points, blocks: Blocks) -> PointEstimate:
    """Before Adam's first step there is no scale, and a gradient of 0 has no direction."""
    there = np.isfinite(values).all(axis=1)
    if not len(blocks):
        return points.average(values[there], blocks)
    return points.average(values[there], np.unique(blocks[there], return_inverse=True)[1])


def _share(part: float, whole: float) -> float | None:
    return defined(part / whole) if whole else None


def _losses(policy: PairScores, reference: PairScores, keys: LossKeys) -> Column:
    """The study's loss of each pair; the one place of the analysis that knows which loss was trained."""
    if keys.ld_alpha not in (None, 1):
        return np.full(len(policy.chosen_logp), np.nan)
    here, there = (
        rewards(of.chosen_logp, of.rejected_logp, (of.chosen_tokens, of.rejected_tokens), keys)
        for of in (policy, reference)
    )
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        losses: Column = loss_of(keys).losses(here.less(there), keys, NUMPY)
    return losses
