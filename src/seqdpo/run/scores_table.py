"""From each stage's own scores to scores.parquet, the table of the whole study."""

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from seqdpo.measure.scores import PairLogps
from seqdpo.preferences.prepare import Preferences
from seqdpo.run.folder import RunFolder
from seqdpo.study.checkpoints import BASE, Node
from seqdpo.study.config import Study
from seqdpo.tables import SCORES_SCHEMA


def stage_scores(scores: Mapping[str, PairLogps], preferences: Preferences) -> pa.Table:
    """A checkpoint's log-probabilities of all evaluation pairs, objective after objective, each by pair_id."""
    tables = []
    for name, logps in scores.items():
        pairs = preferences.objectives[name].eval
        tables.append(
            pa.table(
                {
                    "objective": [name] * len(pairs),
                    "split": ["eval"] * len(pairs),
                    "pair_id": [prepared.pair.pair_id for prepared in pairs],
                    "chosen_logp": logps.chosen,
                    "rejected_logp": logps.rejected,
                }
            )
        )
    return pa.concat_tables(tables)


def scores_table(folder: RunFolder, study: Study, preferences: Preferences) -> pa.Table:
    """SCORES_SCHEMA; a checkpoint that several orders share has its rows under each of them."""
    base = pq.read_table(folder.stage(None) / "scores.parquet")
    tokens = _token_counts(preferences)
    tables = [
        _rows(pq.read_table(folder.stage(node) / "scores.parquet"), base, tokens, seed, order, node)
        for seed in study.seeds
        for order in study.all_orders()
        for node in _checkpoints(seed, order, study.placebo)
    ]
    return pa.concat_tables(tables)


def _checkpoints(seed: int, order: tuple[str, ...], placebos: int) -> Iterator[Node | None]:
    """The base, then the checkpoints along an order, each with its control stages."""
    yield None
    for stage in range(1, len(order) + 1):
        for placebo in range((placebos if stage > 1 else 0) + 1):
            yield Node(seed, order[:stage], placebo)


def _rows(
    own: pa.Table, base: pa.Table, tokens: pa.Table, seed: int, order: tuple[str, ...], node: Node | None
) -> pa.Table:
    # every table has the rows of stage_scores; a margin of a pair with another pair's base must be impossible
    assert own["pair_id"].equals(base["pair_id"])
    n = own.num_rows
    columns = {
        "seed": pa.repeat(seed, n),
        "order": pa.repeat(">".join(order), n),
        "stage": pa.repeat(0 if node is None else node.stage, n),
        "checkpoint": pa.repeat(BASE if node is None else node.checkpoint, n),
        "placebo": pa.repeat(0 if node is None else node.placebo, n),
        **{name: own[name] for name in ("objective", "split", "pair_id", "chosen_logp", "rejected_logp")},
        "base_chosen_logp": base["chosen_logp"],
        "base_rejected_logp": base["rejected_logp"],
        "chosen_tokens": tokens["chosen_tokens"],
        "rejected_tokens": tokens["rejected_tokens"],
    }
    return pa.table(columns).select(SCORES_SCHEMA.names).cast(SCORES_SCHEMA)


def _token_counts(preferences: Preferences) -> pa.Table:
    pairs = [prepared for objective in preferences.objectives.values() for prepared in objective.eval]
    return pa.table(
        {
            "chosen_tokens": [len(prepared.tokens.chosen) for prepared in pairs],
            "rejected_tokens": [len(prepared.tokens.rejected) for prepared in pairs],
        }
    )
