"""The columns of the tables of raw measurements. No torch here: whoever reads them need not have it."""

import pyarrow as pa

#: scores.parquet: one row for each (seed, order, checkpoint, objective, split, pair); log-probabilities in nats,
#: summed over response tokens. Margins are derived from them by `seqdpo.analyse.margins`.
SCORES_SCHEMA = pa.schema(
    [
        ("seed", pa.int64()),
        ("order", pa.string()),  # the objectives joined by ">"
        ("stage", pa.int32()),  # 0: the base
        ("checkpoint", pa.string()),
        ("placebo", pa.int32()),  # 0: a real stage; k: the k-th control stage beside it
        ("objective", pa.string()),
        ("split", pa.string()),
        ("pair_id", pa.string()),
        ("chosen_logp", pa.float64()),
        ("rejected_logp", pa.float64()),
        ("base_chosen_logp", pa.float64()),
        ("base_rejected_logp", pa.float64()),
        ("chosen_tokens", pa.int32()),
        ("rejected_tokens", pa.int32()),
    ]
)

#: movement.parquet: what a stage did to each module's delta W (Frobenius norms); docs/movement.md has the rest.
#: The run's table has NODE_COLUMNS before these.
NODE_COLUMNS = (("seed", pa.int64()), ("checkpoint", pa.string()), ("placebo", pa.int32()), ("parent", pa.string()))
MOVEMENT_SCHEMA = pa.schema(
    [
        ("module", pa.string()),  # its name in the base model; (all): the whole adapter
        ("layer", pa.int32()),
        ("kind", pa.string()),  # the last part of the name, as in q_proj
        ("rank", pa.int32()),  # of the update
        ("update_norm", pa.float64()),  # new delta W less the previous one
        ("previous_norm", pa.float64()),  # delta W that the stage started from; null: from the base
        ("new_norm", pa.float64()),
        ("weight_norm", pa.float64()),  # of the base's weight
        ("share_of_update", pa.float64()),  # of the squared norm of all modules' updates
        ("cosine", pa.float64()),  # of the update and the previous delta W
        ("cosine_null_sd", pa.float64()),  # SD of that of a random update
        ("parallel_norm", pa.float64()),  # part of the update along the previous delta W
        ("perpendicular_norm", pa.float64()),
        ("stable_rank", pa.float64()),  # squared norm over squared largest singular value
        *(
            (f"{side}_{name}{null}", pa.float64())  # left: outputs, right: inputs; _null: that of random directions
            for side in ("left", "right")
            for name in ("overlap", "largest_cosine", "energy_overlap")
            for null in ("", "_null")
        ),
    ]
)
