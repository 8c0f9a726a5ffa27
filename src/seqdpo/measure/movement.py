"""How far a stage moved the adapter, and where to: on delta W alone, never on A and B, which are free to turn.

B G and G^-1 A give the same delta W for every invertible G, so a cosine of raw factors says nothing (both also share
their random start). Everything here comes from QR of the factors: no delta W is made.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from torch import nn

from seqdpo.errors import DataError
from seqdpo.policy.adapters import WEIGHTS_FILE
from seqdpo.policy.quantised import plain_weight
from seqdpo.tables import MOVEMENT_SCHEMA

Matrix = NDArray[np.float64]

#: The row of all modules together.
ALL = "(all)"
#: Singular values below this share of the largest are rounding.
NEGLIGIBLE = 1e-10
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_LAYER = re.compile(r"\.(?P<layer>\d+)\.")
#: Keys of adapter_config.json that make delta W something else than scale * B A; the value that leaves it so.
_PLAIN = {"use_dora": False, "bias": "none", "modules_to_save": None}


class Factors(NamedTuple):
    """One module's delta W = b @ a, the scale in b."""

    b: Matrix  # (d_out, rank)
    a: Matrix  # (rank, d_in)


class Directions(NamedTuple):
    """Singular value decomposition of a delta W, without those that are rounding; k of them."""

    left: Matrix  # (d_out, k)
    values: Matrix  # (k,) descending
    right: Matrix  # (d_in, k)

    @property
    def norm(self) -> float:
        return math.sqrt(float(self.values @ self.values))


def adapter_factors(folder: Path) -> dict[str, Factors]:
    """Delta W of each module of a PEFT LoRA adapter, by the module's name in the base model.

    Raises: DataError where the adapter is not LoRA on linear layers and nothing else.
    """
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    for key, plain in _PLAIN.items():
        if config.get(key, plain) not in (plain, None):
            raise DataError(
                f"{folder / 'adapter_config.json'}: {key} = {config[key]!r}; expected {plain!r}. Its change of the "
                "weights is no product of two matrices; movement cannot be measured."
            )
    found: dict[str, dict[str, Matrix]] = {}
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - no mapping
            match = _KEY.fullmatch(key)
            if match is None:
                raise DataError(f"{folder / WEIGHTS_FILE}: {key!r}; expected only lora_A and lora_B of linear layers.")
            found.setdefault(match["module"], {})[match["factor"]] = file.get_tensor(key).double().numpy()
    return {module: Factors(_scale(config, module, pair["A"]) * pair["B"], pair["A"]) for module, pair in found.items()}


def _scale(config: Mapping[str, Any], module: str, a: Matrix) -> float:
    """lora_alpha / r, or / sqrt(r); both may be a module's own (`alpha_pattern`, `rank_pattern`)."""
    patterns = config.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key(list(patterns), module), config["lora_alpha"]))
    rank = a.shape[0]
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def joined_factors(adapters: Iterable[Path]) -> dict[str, Factors]:
    """Delta W of adapters that are merged one after another, as `adapter_factors`: the first one's ranks come first.

    Raises: as `adapter_factors`.
    """
    joined: dict[str, Factors] = {}
    for folder in adapters:
        for module, own in adapter_factors(folder).items():
            below = joined.get(module)
            joined[module] = own if below is None else Factors(np.hstack([below.b, own.b]), np.vstack([below.a, own.a]))
    return joined


def update_factors(previous: Factors | None, new: Factors) -> Factors:
    """The new delta W less the previous one, as factors.

    The difference is taken between factors, not between norms or products: an update of 1e-4 of the adapter would drown
    in their rounding. The first ranks of an adapter that was stacked on the previous one are the previous one.
    """
    if previous is None:
        return new
    rank = previous.b.shape[1]
    if new.b.shape[1] < rank:
        return Factors(np.hstack([new.b, -previous.b]), np.vstack([new.a, previous.a]))
    b, a = new.b[:, :rank], new.a[:rank]
    return Factors(
        np.hstack([b - previous.b, previous.b, new.b[:, rank:]]), np.vstack([a, a - previous.a, new.a[rank:]])
    )


def directions(factors: Factors) -> Directions:
    """Singular vectors and values of b @ a from its factors: O((d_out + d_in) rank^2)."""
    q_left, r_left = np.linalg.qr(factors.b)
    q_right, r_right = np.linalg.qr(factors.a.T)
    u, values, v = np.linalg.svd(r_left @ r_right.T)
    k = int(np.count_nonzero(values > NEGLIGIBLE * values.max(initial=0.0)))
    return Directions(q_left @ u[:, :k], values[:k], q_right @ v[:k].T)


def inner(first: Factors, second: Factors) -> float:
    """Frobenius inner product of two delta Ws."""
    return float(np.sum((first.b.T @ second.b) * (first.a @ second.a.T)))


class Held(NamedTuple):
    """Whether the update's directions hold all of the previous adapter's by algebra, whatever was learned."""

    left: bool  # outputs
    right: bool  # inputs


def held_by_algebra(previous: Factors, new: Factors) -> Held:
    """A stage that trains the same factors on: B2 A2 - B1 A1 = (B2 - B1) A2 + B1 (A2 - A1).

    Where A changed, all outputs of B1 are in the update, and where B did, all inputs of A1: of such a side no overlap
    of directions tells anything.
    """
    rank = previous.b.shape[1]
    if new.b.shape[1] < rank:  # another adapter, so the previous one is taken away in full
        return Held(True, True)
    return Held(left=bool(np.any(new.a[:rank] != previous.a)), right=bool(np.any(new.b[:, :rank] != previous.b)))


def movement_table(previous: Path | None, new: Path, weight_norms: Mapping[str, float]) -> pa.Table:
    """MOVEMENT_SCHEMA: a row for each module, and ALL. Of any two PEFT adapters on one base; `previous` None: from it.

    `weight_norms` are those of the base's own weights, where known.
    """
    before = {} if previous is None else adapter_factors(previous)
    return movement_between(before, adapter_factors(new), weight_norms)


def movement_between(
    before: Mapping[str, Factors], after: Mapping[str, Factors], weight_norms: Mapping[str, float]
) -> pa.Table:
    """The same from the factors of delta W; a module that only one of them has is 0 in the other."""
    gone = {module: Factors(f.b[:, :0], f.a[:0]) for module, f in before.items() if module not in after}
    rows = [
        _module_row(module, before.get(module), factors, weight_norms.get(module))
        for module, factors in (*after.items(), *gone.items())
    ]
    total = math.fsum(row["update_norm"] ** 2 for row in rows)
    for row in rows:
        row["share_of_update"] = row["update_norm"] ** 2 / total if total else None
    return pa.Table.from_pylist([*rows, _all_row(rows)], schema=MOVEMENT_SCHEMA)


def layer_of(module: str) -> int | None:
    """The number in a module's name, as in model.layers.3.self_attn.q_proj."""
    match = _LAYER.search(module)
    return int(match["layer"]) if match else None


def weight_norms(model: nn.Module) -> dict[str, float]:
    """Frobenius norm of each linear layer's weight, added up in float64."""
    return {
        name: math.sqrt(sum(float(chunk.double().square().sum()) for chunk in plain_weight(module).split(1024)))
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), torch.Tensor) and module.weight.dim() == 2
    }


def _module_row(module: str, previous: Factors | None, new: Factors, weight_norm: float | None) -> dict[str, Any]:
    update = update_factors(previous, new)
    moved = directions(update)
    row: dict[str, Any] = {
        "module": module,
        "layer": layer_of(module),
        "kind": module.rpartition(".")[2],
        "update_norm": moved.norm,
        "new_norm": directions(new).norm,
        "weight_norm": weight_norm,
        "rank": len(moved.values),
        "stable_rank": (moved.norm / float(moved.values[0])) ** 2 if len(moved.values) else None,
    }
    if previous is not None:
        earlier = directions(previous)
        row["previous_norm"] = earlier.norm
        row |= _cosine(inner(update, previous), moved.norm, earlier.norm)
        held = held_by_algebra(previous, new)
        row |= _overlap("left", moved.left, earlier.left, moved.values, earlier.values, held.left)
        row |= _overlap("right", moved.right, earlier.right, moved.values, earlier.values, held.right)
    return row


def _cosine(product: float, update: float, previous: float) -> dict[str, float | None]:
    if not update or not previous:
        return {}
    parallel = product / previous
    cosine = parallel / update
    return {
        "cosine": cosine,
        "parallel_norm": abs(parallel),
        "perpendicular_norm": update * math.sqrt(max(0.0, 1 - cosine**2)),
    }


def _overlap(
    side: str, one: Matrix, other: Matrix, values: Matrix, other_values: Matrix, held: bool
) -> dict[str, float | None]:
    """Do the update's directions on one side lie in those of the previous adapter? Each beside its random value.

    overlap  |Q1' Q2|_F^2 / min(k1, k2), in [0, 1] (Hu et al. 2021, arXiv 2106.09685); random: max(k1, k2) / d
    largest  the largest cosine of the principal angles; random: at most about sqrt(p (1 - q)) + sqrt(q (1 - p)) with
             p = k1 / d, q = k2 / d, the edge for large d (Wachter 1980, Annals of Statistics 8:937)
    energy   sum_ij w_i w_j <u_i, q_j>^2, w the shares of the squared singular values; random: 1 / d

    Where they are `held` by algebra, the first two are 1 and are left out, and the third has no such random value.
    """
    if not one.shape[1] or not other.shape[1]:
        return {}
    d, k1, k2 = one.shape[0], one.shape[1], other.shape[1]
    p, q = min(1.0, k1 / d), min(1.0, k2 / d)
    cosines = one.T @ other  # (k1, k2)
    energy = (values**2 / np.sum(values**2)) @ cosines**2 @ (other_values**2 / np.sum(other_values**2))
    if held:
        return {f"{side}_energy_overlap": float(energy)}
    return {
        f"{side}_overlap": float(np.sum(cosines**2)) / min(k1, k2),
        f"{side}_overlap_null": max(k1, k2) / d,
        f"{side}_largest_cosine": min(1.0, float(np.linalg.norm(cosines, 2))),
        f"{side}_largest_cosine_null": min(1.0, math.sqrt(p * (1 - q)) + math.sqrt(q * (1 - p))) if p + q < 1 else 1.0,
        f"{side}_energy_overlap": float(energy),
        f"{side}_energy_overlap_null": 1 / d,
    }


def _all_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All modules as one vector: sums of inner products over products of norms, no mean of cosines."""

    def norm(name: str) -> float | None:
        values = [row.get(name) for row in rows]
        return None if None in values or not values else math.sqrt(math.fsum(v**2 for v in values if v is not None))

    update, previous = norm("update_norm") or 0.0, norm("previous_norm")
    row: dict[str, Any] = {name: norm(name) for name in ("update_norm", "new_norm", "weight_norm", "previous_norm")}
    row |= {"module": ALL, "kind": ALL, "share_of_update": 1.0 if update else None}
    if previous:
        products = [(r.get("cosine") or 0.0) * r["update_norm"] * r["previous_norm"] for r in rows]
        row |= _cosine(math.fsum(products), update, previous)
    return row
