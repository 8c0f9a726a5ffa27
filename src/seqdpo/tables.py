"""The columns of the tables of raw measurements. No torch here: whoever reads them need not have it."""

import pyarrow as pa

PROMPT_TYPE = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
#: data/pairs.parquet: one row for each (objective, split, pair), then the columns of SLICE_PREFIX.
PAIRS_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("prompt_id", pa.string()),
        ("objective", pa.string()),
        ("split", pa.string()),
        ("prompt", PROMPT_TYPE),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("strength", pa.float64()),
        ("prompt_tokens", pa.int32()),
        ("chosen_tokens", pa.int32()),
        ("rejected_tokens", pa.int32()),
        ("truncated", pa.bool_()),
    ]
)
#: What the chat template was given beside these texts, as JSON, null for most; a column only where some pair has it.
TEMPLATE_EXTRAS = "template_extras"
#: Columns of metadata begin with this, so that no name of a dataset can hide a column of ours.
SLICE_PREFIX = "slice_"

#: scores.parquet: one row for each (seed, order, checkpoint, objective, split, pair); log-probabilities in nats,
#: summed over response tokens. Margins are derived from them by `seqdpo.analysis.margins`.
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
        ("parallel_norm", pa.float64()),  # part of the update along the previous delta W
        ("perpendicular_norm", pa.float64()),
        ("stable_rank", pa.float64()),  # squared norm over squared largest singular value
        *(
            # left: outputs, right: inputs; null where it is 1 by algebra; _null: that of random directions
            (f"{side}_{name}{null}", pa.float64())
            for side in ("left", "right")
            for name in ("overlap", "largest_cosine", "energy_overlap")
            for null in ("", "_null")
        ),
    ]
)

#: gradients.parquet: the gradients of the current and of an earlier objective at points of a later stage, each on two
#: disjoint held-out batches ("halves"): c1, c2 and e1, e2, with means c, e. Squared norms are means over the halves.
#: In a control stage the current objective's labels are drawn, as those it trains on.
#: The run's table has NODE_COLUMNS before these; docs/mechanism.md has the rest.
GRADIENTS_SCHEMA = pa.schema(
    [
        ("step", pa.int32()),  # optimiser steps of the stage before this point
        ("objective", pa.string()),  # the earlier one
        ("module", pa.string()),  # its name in the base model; (layer): all of a layer; (all): the whole adapter
        ("layer", pa.int32()),
        ("n_pairs", pa.int32()),  # of one half
        ("block", pa.int32()),  # points of different blocks read different pairs, of all objectives; null: not known
        ("dot", pa.float64()),  # <c, e>
        ("current_squared_norm", pa.float64()),
        ("current_split_dot", pa.float64()),  # <c1, c2>
        ("earlier_squared_norm", pa.float64()),
        ("earlier_split_dot", pa.float64()),  # <e1, e2>
        ("preconditioned_dot", pa.float64()),  # <c / (sqrt(v) + eps), e>, v Adam's; null before its first step
        ("from_step", pa.int32()),  # the interval around the point: steps done when it began,
        ("to_step", pa.int32()),  # and when it ended
        ("update_dot", pa.float64()),  # <e, the parameters' change over the interval>
    ]
)

#: The places a on the line from the previous checkpoint (0) to the new one (1) at which pairs are scored.
PATH = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
#: kl_and_path.parquet: some held-out pairs of every objective, what the stage made of them; sums over response tokens,
#: in nats. The run's table has NODE_COLUMNS before these.
KL_AND_PATH_SCHEMA = pa.schema(
    [
        ("objective", pa.string()),
        ("pair_id", pa.string()),
        ("chosen_kl", pa.float64()),  # KL(previous || new) of the next token, summed along the response
        ("rejected_kl", pa.float64()),
        ("chosen_forecast", pa.float64()),  # change of the log-probability that one short step of the stage promises
        ("rejected_forecast", pa.float64()),
        ("path_chosen_logp", pa.list_(pa.float64())),  # at the places of PATH; null for a control stage
        ("path_rejected_logp", pa.list_(pa.float64())),
    ]
)

#: Each stage's own tables of the mechanism by the name of their file, with the names that older releases gave it.
STAGE_TABLES: dict[str, tuple[pa.Schema, tuple[str, ...]]] = {
    "movement": (MOVEMENT_SCHEMA, ()),
    "gradients": (GRADIENTS_SCHEMA, ()),
    "kl_and_path": (KL_AND_PATH_SCHEMA, ("function",)),
}

#: generations.parquet: what each real checkpoint answers to some held-out prompts, by greedy decoding.
GENERATIONS_SCHEMA = pa.schema(
    [
        ("seed", pa.int64()),
        ("checkpoint", pa.string()),
        ("objective", pa.string()),
        ("pair_id", pa.string()),  # the first pair with this prompt
        ("response", pa.string()),
        ("tokens", pa.int32()),  # without the one that ends it
        ("ended", pa.bool_()),  # False: cut off at the limit
        ("engine", pa.string()),  # what answered, with its version; runs of older releases lack it: transformers
    ]
)
