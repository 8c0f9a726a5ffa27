"""What each stage did to the policy as a function: KL, the forecast of pairs against what came, and the path."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import special

from seqdpo.analysis.association import spearman
from seqdpo.analysis.estimates import Clusters, Estimate, defined, mean
from seqdpo.analysis.margins import Column, PairScores, share_above_zero
from seqdpo.analysis.nodes import NodeKey, checkpoint_scores, tables_of
from seqdpo.analysis.panel import Panel
from seqdpo.analysis.path import Margins, best_place, path_record
from seqdpo.analysis.schema import BestPlaces, Bounds, Forecast, Kl, KlAndPath, KlAndPathOfObjective
from seqdpo.errors import DataError
from seqdpo.tables import PATH

SCOPE = "this checkpoint, on held-out pairs like these; KL along given responses, not along the policy's own"


class Measured(NamedTuple):
    """The rows of one stage and objective, beside the scores of the same pairs."""

    table: pa.Table
    clusters: Clusters
    before: PairScores
    after: PairScores


def kl_and_path_records(table: pa.Table, panels: Sequence[Panel], confidence: float) -> list[KlAndPath]:
    """One record for each stage of kl_and_path.parquet, control stages among them.

    `panels` are those of the evaluation split; the table may hold some of their pairs only.

    Raises: DataError if the table has pairs, or a checkpoint, that the scores do not have.
    """
    return [_stage_record(node, own, panels, confidence) for node, own in tables_of(table)]


def measured(node: NodeKey, table: pa.Table, panel: Panel) -> Measured:
    """The rows of an objective and what the stage's two checkpoints say of these pairs.

    Raises: as `kl_and_path_records`.
    """
    rows = pc.index_in(table["pair_id"].combine_chunks(), value_set=panel.pair_ids.cast(pa.string()))
    if rows.null_count:
        raise DataError(
            f"kl_and_path: {rows.null_count} of {table.num_rows} pairs of {panel.objective} are not among the scored "
            "ones; expected pairs of the same run. Use the table as the run wrote it."
        )
    where = rows.to_numpy()
    before, after = (
        PairScores(*(column[where] for column in checkpoint_scores(panel, node.seed, name)))
        for name in (node.parent, node.checkpoint)
    )
    return Measured(table, np.unique(panel.clusters[where], return_inverse=True)[1], before, after)


def kl_record(pairs: Measured, confidence: float) -> Kl:
    """KL(previous || new) a token: each pair's sum over its response's tokens, averaged over pairs."""
    chosen = _column(pairs.table, "chosen_kl") / pairs.before.chosen_tokens
    rejected = _column(pairs.table, "rejected_kl") / pairs.before.rejected_tokens
    return Kl(
        chosen=mean(chosen, pairs.clusters).record(confidence),
        rejected=mean(rejected, pairs.clusters).record(confidence),
    )


def forecast_record(pairs: Measured, confidence: float) -> Forecast | None:
    """How well the forecast ranked the changes that came; None where none was made."""
    promised = _column(pairs.table, "chosen_forecast") - _column(pairs.table, "rejected_forecast")
    if np.isnan(promised).all():
        return None
    came = pairs.after.margin - pairs.before.margin
    n_prompts = len(np.unique(pairs.clusters))
    r = _rank_correlation(promised, came, n_prompts, confidence)
    return Forecast(
        spearman=r.value,
        low=r.low,
        high=r.high,
        confidence=confidence,
        n=len(came),
        n_prompts=n_prompts,
        actual_change=mean(came, pairs.clusters).record(confidence),
    )


def path_margins(pairs: Measured) -> Margins | None:
    """The margins at each place of the line; None where it was not walked."""
    if pairs.table["path_chosen_logp"].null_count == pairs.table.num_rows:
        return None
    chosen, rejected = (
        np.stack(pairs.table[name].to_numpy()) for name in ("path_chosen_logp", "path_rejected_logp")
    )  # (n_pairs, places)
    base = pairs.before.base_chosen_logp - pairs.before.base_rejected_logp
    return {a: chosen[:, i] - rejected[:, i] - base for i, a in enumerate(PATH)}


def _stage_record(node: NodeKey, table: pa.Table, panels: Sequence[Panel], confidence: float) -> KlAndPath:
    records, paths = [], {}
    for panel in panels:
        own = table.filter(pc.field("objective") == panel.objective)
        if not own.num_rows:
            continue
        pairs = measured(node, own, panel)
        margins = path_margins(pairs)
        if margins is not None and panel.objective in node.path:
            paths[panel.objective] = margins, pairs.clusters
        records.append(
            KlAndPathOfObjective(
                objective=panel.objective,
                n=own.num_rows,
                kl=kl_record(pairs, confidence),
                forecast=forecast_record(pairs, confidence),
                path=None if margins is None else path_record(margins, pairs.clusters, confidence),
            )
        )
    return KlAndPath(
        seed=node.seed,
        from_=node.parent,
        to=node.checkpoint,
        placebo=node.placebo,
        objectives=tuple(records),
        best_for_worst_objective=_best(paths, confidence),
        scope=SCOPE,
    )


def _best(paths: Mapping[str, tuple[Margins, Clusters]], confidence: float) -> BestPlaces | None:
    if not paths:
        return None
    margins: dict[str, dict[float, Estimate]] = {}
    accuracies: dict[str, dict[float, Estimate]] = {}
    for name, (along, clusters) in paths.items():
        margins[name] = {a: mean(column, clusters) for a, column in along.items()}
        accuracies[name] = {a: mean(share_above_zero(column), clusters) for a, column in along.items()}
    return BestPlaces(accuracy=best_place(accuracies, confidence), margin=best_place(margins, confidence))


def _rank_correlation(first: Column, second: Column, n_prompts: int, confidence: float) -> Bounds:
    """Spearman's correlation with the interval of Bonett and Wright 2000 (Psychometrika 65:23).

    On Fisher's scale the standard error is sqrt((1 + r^2 / 2) / (n - 3)); n is the number of prompts, since pairs of
    one prompt are not independent.
    """
    r = spearman(first, second)
    low = high = math.nan
    if r is not None and n_prompts > 3 and abs(r) < 1:
        reach = float(special.ndtri((1 + confidence) / 2)) * math.sqrt((1 + r**2 / 2) / (n_prompts - 3))
        low, high = math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach)
    return Bounds(value=r, low=defined(low), high=defined(high))


def _column(table: pa.Table, name: str) -> Column:
    return table[name].to_numpy().astype(np.float64)
