"""Variants side by side: how much of the earlier objectives each kept, for how much of the new one, at what cost."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from seqdpo.analysis.averages import by_split
from seqdpo.analysis.estimates import Clusters, Ratio, defined, mean, ratio
from seqdpo.analysis.margins import Column
from seqdpo.analysis.panel import At, Mask, Panel
from seqdpo.analysis.recipes import FEWEST_SEEDS
from seqdpo.analysis.schema import (
    Bounds,
    OfControl,
    PathCost,
    ShareOfPlain,
    ThanPlain,
    VariantOutcome,
    Variants,
    extended,
)
from seqdpo.analysis.variant_sentences import projection_sentence, what_to_take
from seqdpo.preferences.pairs import content_hash
from seqdpo.study.checkpoints import is_together, order_name, parse_order, taught_together, variant_of

PLAIN = "plain"
#: What each checkpoint cost from the base on, by seed and name.
Costs = Mapping[tuple[int, str], PathCost]


def variant_records(
    panels: Sequence[Panel],
    variants: Mapping[str, Mapping[str, Any]],
    costs: Costs,
    confidence: float,
    tolerance: float,
) -> list[Variants]:
    """One record for each split and each order of two or more stages that has variants; `variants` are their keys.

    The earlier objectives are counted as shares of the mean margin that the plain order had when it had just taught
    them, the new one as a share of what its plain stage taught: (margin at the end - before) / (plain margin at the
    end - before), "before" being the plain checkpoint before the last stage. A pair counts with its mean over seeds.

    Where a remedy was tried at several strengths, one is chosen on half of the prompts and all is reported on the
    other half: the best of several looks better on the pairs that chose it than it is.
    """
    found = []
    for split, group in by_split(panels).items():
        for order in dict.fromkeys(order for panel in group for _, order in panel.orders()):
            if variant_of(order) or len(parse_order(order)) < 2:
                continue
            of = _side_by_side(group, order, variants)
            if of is not None:
                found.append(_record(of, split, variants, costs, confidence, tolerance))
    return found


class _Ends(NamedTuple):
    """The last checkpoints of one variant, seed by seed."""

    variant: str
    order: str
    ats: list[At]


@dataclass(frozen=True, slots=True)
class _Objective:
    """What is known of one objective's pairs, each the mean over the seeds: (n_pairs,) columns."""

    panel: Panel
    whole: Column  # that the shares are of: taught, or gained by the plain stage
    before: Column  # margins from which the share counts: 0 of the earlier ones
    ends: Mapping[str, Column]  # margins at the end
    by_seed: Mapping[str, list[float]]  # the same shares seed by seed
    logp_change: Mapping[str, float | None]

    def rows(self, kept: Mask) -> "_Objective":
        return replace(
            self,
            panel=self.panel.rows(kept),
            whole=self.whole[kept],
            before=self.before[kept],
            ends={name: column[kept] for name, column in self.ends.items()},
        )

    @property
    def clusters(self) -> Clusters:
        return self.panel.clusters

    def share(self, variant: str) -> Ratio:
        return _ratio(self.ends[variant] - self.before, self.whole, self.clusters)

    def lead(self, variant: str, other: str) -> Ratio:
        """Of one variant over another, in the same shares, pair by pair."""
        return _ratio(self.ends[variant] - self.ends[other], self.whole, self.clusters)


class _SideBySide(NamedTuple):
    order: str
    ends: list[_Ends]  # the plain one first
    earlier: list[_Objective]
    new: _Objective
    seeds: list[int]

    @property
    def objectives(self) -> list[_Objective]:
        return [*self.earlier, self.new]

    def rows(self, half: int) -> "_SideBySide":
        """One half of the prompts, 0 or 1."""
        earlier = [one.rows(_half(one.panel) == half) for one in self.earlier]
        return self._replace(earlier=earlier, new=self.new.rows(_half(self.new.panel) == half))


def _side_by_side(panels: Sequence[Panel], order: str, variants: Mapping[str, Mapping[str, Any]]) -> _SideBySide | None:
    """None where the order has no variants, or an objective of it no pairs."""
    path = parse_order(order)
    of = {panel.objective: panel for panel in panels}
    if any(name not in of for name in path):
        return None
    seeds = [seed for seed, name in of[path[0]].orders() if name == order]
    ends = [_Ends(PLAIN, order, [At(seed, order, len(path)) for seed in seeds])]
    names = {panel_order for panel in panels for _, panel_order in panel.orders()}
    for variant, keys in variants.items():
        joint = [one for one in names if is_together(one) and set(taught_together(one)) == set(path)]
        own = joint[0] if keys.get("joint") and joint else order_name(path, variant)
        stage = 1 if keys.get("joint") else len(path)
        if own in names:
            ends.append(_Ends(variant, own, [At(seed, own, stage) for seed in seeds]))
    if len(ends) < 2:
        return None
    objectives = [_objective(of[name], order, stage, ends, seeds) for stage, name in enumerate(path, 1)]
    return _SideBySide(order, ends, objectives[:-1], objectives[-1], seeds)


def _objective(panel: Panel, order: str, stage: int, ends: Sequence[_Ends], seeds: Sequence[int]) -> _Objective:
    is_new = stage == len(parse_order(order))

    def margins(seed: int, at_stage: int) -> Column:
        return panel.checkpoints[At(seed, order, at_stage)].margin

    befores = [margins(seed, stage - 1) if is_new else np.zeros(len(panel.clusters)) for seed in seeds]
    wholes = [margins(seed, stage) - before for seed, before in zip(seeds, befores, strict=True)]
    of_ends = {end.variant: [panel.checkpoints[at].margin for at in end.ats] for end in ends}
    logps = {end.variant: [panel.checkpoints[at].chosen_logp for at in end.ats] for end in ends}
    start = [panel.checkpoints[At(seed, order, stage - is_new)].chosen_logp for seed in seeds]
    return _Objective(
        panel=panel,
        whole=_mean(wholes),
        before=_mean(befores),
        ends={name: _mean(columns) for name, columns in of_ends.items()},
        by_seed={
            name: [
                _share_of(column - before, whole)
                for column, before, whole in zip(columns, befores, wholes, strict=True)
            ]
            for name, columns in of_ends.items()
        },
        logp_change={name: defined(float(np.mean(_mean(own) - _mean(start)))) for name, own in logps.items()},
    )


def _mean(columns: Sequence[Column]) -> Column:
    total: Column = np.mean(np.stack(columns), axis=0)
    return total


def _share_of(part: Column, whole: Column) -> float:
    bottom = float(np.mean(whole)) if len(whole) else math.nan
    return float(np.mean(part)) / bottom if bottom > 0 else math.nan


def _ratio(part: Column, whole: Column, clusters: Clusters) -> Ratio:
    """Undefined where nothing was learned, which there would be a share of."""
    found = ratio(part, whole, clusters)
    return found if found.bottom > 0 else replace(found, value=math.nan, df=math.nan)


def _half(panel: Panel) -> Mask:
    """0 or 1 for each pair, by the hash of its prompt: the same for every objective that asks it."""
    name = "prompt_id" if "prompt_id" in panel.metadata.column_names else "pair_id"
    ids = panel.metadata[name].to_pylist()
    halves: Mask = np.array([int(content_hash(["half of variants", one]), 16) % 2 for one in ids], dtype=np.int64)
    return halves


def _record(
    of: _SideBySide,
    split: str,
    variants: Mapping[str, Mapping[str, Any]],
    costs: Costs,
    confidence: float,
    tolerance: float,
) -> Variants:
    families = _families([end.variant for end in of.ends], variants)
    swept = any(len(members) > 1 for members in families)
    best = {name for members in families for name in _best(members, of.rows(0) if len(members) > 1 else of)}
    reported = of.rows(1) if swept else of
    compared = [end.variant for end in of.ends if not _is_joint(variants, end.variant)]
    outcomes = tuple(
        VariantOutcome(
            variant=end.variant,
            keys=dict(variants.get(end.variant, {})),
            checkpoint=end.order,
            joint=_is_joint(variants, end.variant),
            chosen=end.variant in best,
            kept=tuple(_share_record(one, end.variant, len(compared), confidence) for one in reported.earlier),
            learned=_share_record(reported.new, end.variant, len(compared), confidence),
            controls=tuple(_controls(reported, end)),
            cost=_cost(end, costs),
            on_front=end.variant in compared and not _dominated(end.variant, compared, reported),
            beaten_by=tuple(_beaten_by(end.variant, compared, reported, confidence)),
        )
        for end in of.ends
    )
    found = Variants(
        order=of.order,
        split=split,
        seeds=tuple(of.seeds),
        confidence=confidence,
        pairs="half of the prompts; strengths were chosen on the other half" if swept else "all held-out pairs",
        outcomes=outcomes,
        sentence="",
        projection=None,
    )
    return replace(found, sentence=what_to_take(found, tolerance), projection=projection_sentence(found, tolerance))


def _is_joint(variants: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    return bool(variants.get(name, {}).get("joint"))


def _families(names: Sequence[str], variants: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The variants that do the same at different strengths: of the same keys, and the same but for numbers."""
    grouped: dict[Any, list[str]] = {}
    for name in names:
        keys = variants.get(name, {})
        what = tuple(sorted((key, "" if _is_number(value) else str(value)) for key, value in keys.items()))
        grouped.setdefault(what, []).append(name)
    return list(grouped.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _best(members: Sequence[str], of: _SideBySide) -> list[str]:
    """The strength with the largest sum of shares, the least that was kept and the learned one."""
    if len(members) == 1:
        return list(members)
    sums = {name: min(one.share(name).value for one in of.earlier) + of.new.share(name).value for name in members}
    known = {name: total for name, total in sums.items() if math.isfinite(total)}
    return [max(known, key=lambda name: known[name])] if known else []


def _share_record(of: _Objective, variant: str, n_variants: int, confidence: float) -> ShareOfPlain:
    lead, by_seed = of.lead(variant, PLAIN), of.by_seed[variant]
    share = of.share(variant)
    leads = [own - plain for own, plain in zip(by_seed, of.by_seed[PLAIN], strict=True)]
    return extended(
        _bounds(share, confidence),
        ShareOfPlain,
        objective=of.panel.objective,
        n=share.n,
        n_prompts=share.n_prompts,
        minus_plain=_bounds(lead, confidence),
        than_plain=None if variant == PLAIN else _than_plain(lead, leads, n_variants - 1, confidence),
        by_seed=tuple(map(defined, by_seed)),
        chosen_logp_change=of.logp_change[variant],
    )


def _than_plain(lead: Ratio, leads: Sequence[float], n_variants: int, confidence: float) -> ThanPlain:
    """Whether a variant kept or learned more than the plain stage: each of the claims of an order shares the risk.

    From FEWEST_SEEDS seeds on it must hold over the seeds, too.
    """
    level = 1 - (1 - confidence) / max(n_variants, 1)
    sides = {_side(lead.interval(level))}
    if len(leads) >= FEWEST_SEEDS:
        sides.add(_side(mean(np.array(leads), np.arange(len(leads))).interval(confidence)))
    return sides.pop() if len(sides) == 1 else "open"


def _side(interval: tuple[float, float]) -> ThanPlain:
    low, high = interval
    return "more" if low > 0 else "less" if high < 0 else "open"


def _dominated(name: str, compared: Sequence[str], of: _SideBySide) -> bool:
    """Whether another is, by what was found, at least as good in every objective and better in one."""
    for other in compared:
        leads = [one.lead(other, name).value for one in of.objectives]
        if all(lead >= 0 for lead in leads) and any(lead > 0 for lead in leads):
            return True
    return False


def _beaten_by(name: str, compared: Sequence[str], of: _SideBySide, confidence: float) -> Iterator[str]:
    """The variants that are better in every objective with intervals that lie above 0, all comparisons together."""
    if name not in compared:
        return
    n_claims = len(list(permutations(compared, 2))) / 2
    level = 1 - (1 - confidence) / max(n_claims, 1)
    for other in compared:
        if other != name and all(one.lead(other, name).interval(level)[0] > 0 for one in of.objectives):
            yield other


def _controls(of: _SideBySide, end: _Ends) -> Iterator[OfControl]:
    """What the control stages beside the last stage kept and learned: what the new labels did not do."""
    for number in sorted({at.placebo for at in of.new.panel.checkpoints if at.order == end.order and at.placebo}):
        shares = []
        for one in of.objectives:
            ats = [at._replace(placebo=number) for at in end.ats]
            if not all(at in one.panel.checkpoints for at in ats):
                break
            margins = _mean([one.panel.checkpoints[at].margin for at in ats])
            shares.append(defined(_share_of(margins - one.before, one.whole)))
        else:
            yield OfControl(number=number, kept=tuple(shares[:-1]), learned=shares[-1])


def _cost(end: _Ends, costs: Costs) -> PathCost | None:
    """Of one seed, from the base on: the mean over the seeds."""
    name = end.order
    found = [costs[at.seed, name] for at in end.ats if (at.seed, name) in costs]
    if not found or len(found) < len(end.ats):
        return None
    return PathCost(
        trained_pairs=_average([one.trained_pairs for one in found]),
        scored_pairs=_average([one.scored_pairs for one in found]),
        seconds=_average([one.seconds for one in found]),
    )


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 3) if len(known) == len(values) else None


def _bounds(found: Ratio, confidence: float) -> Bounds:
    low, high = found.interval(confidence)
    return Bounds(value=defined(found.value), low=defined(low), high=defined(high))
