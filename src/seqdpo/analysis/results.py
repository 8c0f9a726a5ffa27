"""From the tables of a run to its findings."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from seqdpo.analysis import estimates, schema
from seqdpo.analysis.advice import next_step
from seqdpo.analysis.cells import Cell, cells
from seqdpo.analysis.changes import change_record
from seqdpo.analysis.gradients import gradient_records
from seqdpo.analysis.in_measure import other_measures
from seqdpo.analysis.kl_and_path import kl_and_path_records
from seqdpo.analysis.learned import learned_records
from seqdpo.analysis.length import length_change_record, length_record
from seqdpo.analysis.movement import movement_records
from seqdpo.analysis.orders import order_records
from seqdpo.analysis.panel import Panel, panels
from seqdpo.analysis.quartiles import independent_runs, quartile_record
from seqdpo.analysis.recipes import recipes, strongest
from seqdpo.analysis.schema import Findings, Tolerances
from seqdpo.analysis.score_matrix import score_matrix
from seqdpo.analysis.shares import SHARE_METHOD
from seqdpo.analysis.slices import slice_records
from seqdpo.analysis.transfer import transfer_records
from seqdpo.analysis.variants import Costs, variant_records
from seqdpo.analysis.verdicts import verdicts
from seqdpo.study.checkpoints import variant_of
from seqdpo.study.keys import LossKeys


class MechanismTables(NamedTuple):
    """gradients.parquet, movement.parquet and kl_and_path.parquet."""

    gradients: pa.Table
    movement: pa.Table
    kl_and_path: pa.Table


def results(
    scores: pa.Table,
    pairs: pa.Table | None,
    beta: float,
    tolerances: Tolerances = Tolerances(),  # noqa: B008 - immutable
    study: Mapping[str, Any] | None = None,
    mechanism: MechanismTables | None = None,
    costs: Costs = MappingProxyType({}),
) -> Findings:
    """The findings of a run or of scores from elsewhere; `schema.to_json` makes results.json of them.

    `scores` has the columns of scores.parquet; `pairs` those of data/pairs.parquet, for prompts and slices. `study` is
    repeated as it is; its keys of the loss say what the stages of `mechanism` minimised, its `variants` what those of
    the scores are. `costs` are of checkpoints.

    Raises: DataError as `seqdpo.analysis.panel.panels`, and for mechanism tables of other scores.
    """
    side_by_side, confidence = panels(scores, pairs), tolerances.confidence
    learned, at_the_end = learned_records(side_by_side, tolerances)
    orders = tuple(order_records(side_by_side, beta, confidence))
    of_mechanism = None
    if mechanism is not None:
        of_mechanism = mechanism_record(mechanism, side_by_side, _loss_keys(study or {}, beta), confidence)
    known = Known(orders, of_mechanism.kl_and_path if of_mechanism else (), (study or {}).get("kind") == "audit")
    return Findings(
        schema_version=schema.SCHEMA_VERSION,
        study=dict(study or {}),
        method=schema.Method(
            intervals=f"{estimates.METHOD}; {SHARE_METHOD}", ties="one half", undefined="null", tolerances=tolerances
        ),
        cells=tuple(cell_records(cells(side_by_side), tolerances, known)),
        learned=tuple(learned),
        at_the_end=tuple(at_the_end),
        score_matrix=tuple(score_matrix(side_by_side, beta, confidence)),
        transfer=tuple(transfer_records(side_by_side, beta, confidence)),
        orders=orders,
        length=tuple(_lengths(side_by_side, confidence)),
        other_measures=tuple(
            other_measures(side_by_side, lambda of: cell_records(of, tolerances, known), beta, confidence)
        ),
        mechanism=of_mechanism,
        variants=tuple(
            variant_records(side_by_side, (study or {}).get("variants", {}), costs, confidence, tolerances.margin)
        ),
    )


def mechanism_record(
    tables: MechanismTables, of: Sequence[Panel], keys: LossKeys, confidence: float
) -> schema.Mechanism:
    """`mechanism` of results.json; `keys` say what the stages minimised.

    Raises: DataError for tables that do not belong to the scores.
    """
    evaluated = [panel for panel in of if panel.split == "eval"]
    return schema.Mechanism(
        gradients=tuple(gradient_records(tables.gradients, evaluated, keys, confidence)),
        movement=tuple(movement_records(tables.movement, confidence)),
        kl_and_path=tuple(kl_and_path_records(tables.kl_and_path, evaluated, confidence)),
    )


def _loss_keys(study: Mapping[str, Any], beta: float) -> LossKeys:
    return LossKeys(**{name: study[name] for name in LossKeys.model_fields if name in study} | {"beta": beta})


class Known(NamedTuple):
    """What else is known when it is said what to do next."""

    orders: Sequence[schema.Orders] = ()
    paths: Sequence[schema.KlAndPath] = ()
    is_audit: bool = False


def cell_records(of: Sequence[Cell], tolerances: Tolerances, known: Known = Known()) -> list[schema.Cell]:  # noqa: B008
    """One record for each cell: its verdict, what can be said of the recipe, and the tables behind them.

    The cells of each variant share the risk of a wrong claim among themselves: what is tried beside the plain orders
    changes no verdict on them.
    """
    found: dict[int, schema.Cell] = {}
    for places in _by_variant(of):
        own = [of[place] for place in places]
        judged = zip(verdicts(own, tolerances), recipes(own, tolerances.confidence, tolerances.looks), strict=True)
        for place, (verdict, recipe) in zip(places, judged, strict=True):
            found[place] = _cell_record(of[place], verdict, recipe, known, tolerances.confidence)
    return [found[place] for place in range(len(of))]


def _by_variant(of: Sequence[Cell]) -> Iterable[list[int]]:
    """The places of each variant's cells."""
    grouped: dict[str, list[int]] = {}
    for place, cell in enumerate(of):
        grouped.setdefault(variant_of(cell.order), []).append(place)
    return grouped.values()


def _cell_record(
    cell: Cell,
    verdict: schema.Verdict,
    of_quantities: Mapping[schema.Quantity, schema.OfRecipe],
    known: Known,
    confidence: float,
) -> schema.Cell:
    clusters = cell.panel.clusters
    leading = None if verdict.verdict == "UNDEFINED" else strongest(of_quantities)
    recipe = schema.Recipe(
        quantity=leading,
        margin=of_quantities["margin"],
        accuracy=of_quantities["accuracy"],
        flips=of_quantities["flips"],
    )
    return schema.Cell(
        measure=cell.panel.measure,
        seed=cell.seed,
        order=cell.order,
        objective=cell.objective,
        split=cell.panel.split,
        taught=cell.name(cell.taught),
        from_=cell.name(cell.start),
        to=cell.name(cell.end),
        n=len(clusters),
        n_prompts=len(np.unique(clusters)),
        n_effective=estimates.effective_prompts(clusters),
        verdict=verdict,
        recipe=recipe,
        next=next_step(cell, verdict, recipe, known.orders, known.paths, known.is_audit),
        change=change_record(cell.before, cell.after, clusters, confidence),
        quartiles=quartile_record(cell, independent_runs(cell), confidence),
        length=length_change_record(cell.before, cell.after, clusters, confidence),
        slices=tuple(slice_records(cell, confidence)),
    )


def _lengths(of: Sequence[Panel], confidence: float) -> list[schema.Length]:
    """Of every real checkpoint after the base."""
    return [
        length_record(panel, at, confidence) for panel in of for at in panel.checkpoints if at.stage and not at.placebo
    ]
