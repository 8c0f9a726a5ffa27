"""Small studies of the lab to test preflights on: `preflight_cells.py [--runs FOLDER]`; a second call goes on.

Drawn at random: a first objective, then one of several others from its checkpoint (angle, noise, overlap, features,
pairs), a third one after one of those, and the other order. Before every later stage all signals are measured from its
parent's checkpoint, whatever they cost. About 20 minutes of one core; `preflight_truth.py` reads what is found.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from seqdpo.measure.forecast import forecast
from seqdpo.measure.kl_and_path import HeldOut
from seqdpo.measure.scores import pair_logps
from seqdpo.policy.adapters import loaded_adapter, trainable_policy
from seqdpo.runner.bench import Bench
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.stage import stage_seed, train
from seqdpo.runner.study import read_inputs, study_bench
from seqdpo.study.checkpoints import Node
from seqdpo.study.config import Study
from seqdpo.study.settings import SETTINGS
from seqdpo.training.pairs import TrainingPairs, training_pairs
from seqdpo.training.placebo import with_own_labels
from seqdpo.training.stage import train_stage

N_GROUPS = 10
N_OTHERS = 5
N_FIRST = 480  # fewer teach the first objective next to nothing
N_HELD_OUT, N_NEW_HELD_OUT, N_PROBED, N_LABELS = 128, 48, 64, 128
GRADIENT_PAIRS = 48
PROBED_STEPS = 4
N_CONTROLS = 2
#: Scores by adapter and pairs: stages of a group share their first one.
_SCORED: dict[tuple[str, tuple[str, ...]], NDArray[np.float64]] = {}
HALVES = (["warmth", "thoroughness", "caution"], ["certainty", "evidence", "openness"])
RUNS = Path("runs/preflight-truth")


class Group(NamedTuple):
    """One study, and the later stages that are looked at before they train."""

    study: Study
    later: list[Node]
    repeated: Node | None  # of these, once more with another seed


def groups(root: Path) -> Iterator[Group]:
    for number in range(N_GROUPS):
        draw = np.random.default_rng([1811, number])
        turned = number % 4 == 0  # the other order, too
        apart = number % 6 == 5  # the first objective judges three of the features
        first = {"angle": 0.0, "noise": float(draw.choice([0.1, 0.25, 0.5]))}
        firsts = {"max_train_pairs": N_FIRST}
        first |= firsts | {"features": HALVES[0] if apart else None}
        objectives = {f"first{number}": _objective(draw, first)}
        for k in range(N_OTHERS + 1):
            angle = 90.0 if apart and k == 0 else float(draw.choice(np.arange(0, 181, 15)))
            features = HALVES[1] if apart and k < 2 else None
            name = f"third{number}" if k == N_OTHERS else f"other{number}-{k}"
            overlap = 0.0 if apart else float(draw.choice([0, 0.5, 1]))
            dials = {"angle": angle, "noise": float(draw.choice([0.1, 0.25, 0.5, 1.0])), "features": features}
            objectives[name] = _objective(draw, dials | {"overlap": overlap} | (firsts if turned and k == 0 else {}))
        names = list(objectives)
        orders = [[names[0], names[1], names[-1]], *([names[0], name] for name in names[2:-1])]
        if turned:
            orders.append([names[1], names[0]])
        rest = {
            "objectives": objectives,
            "orders": orders,
            "seeds": [int(draw.integers(1000))],
            "learning_rate": float(draw.choice([1.5e-3, 2e-3, 2.5e-3])),
            "max_eval_pairs": N_HELD_OUT,
            "placebo": 0,
            "gradient_trace_points": 0,
            "mechanism_pairs": 0,
            "output_dir": str(root / f"group{number:02d}"),
        }
        study = Study.model_validate(SETTINGS["lab-null"].defaults | rest)
        later = [Node(study.seeds[0], tuple(order[:2])) for order in orders]
        yield Group(study, [*later, Node(study.seeds[0], tuple(orders[0]))], later[0] if turned else None)


def _objective(draw: np.random.Generator, dials: Mapping[str, Any]) -> dict[str, Any]:
    n_train = int(draw.choice([160, 240, 320]))
    return {"format": "lab", "max_train_pairs": n_train, "n_pairs": 2000, "overlap": 0.0} | dict(dials)


def cells(root: Path) -> None:
    for study, later, repeated in groups(root):
        folder = RunFolder(Path(study.output_dir))
        left = [node for node in later if not raw_file(folder, node).is_file()]
        if not left:
            continue
        inputs = read_inputs(study, lambda text: None)
        bench = study_bench(inputs, folder, lambda units, pairs: None, lambda text: None)
        for node in left:
            raw_file(folder, node).parent.mkdir(parents=True, exist_ok=True)
            found = measured(bench, node, node == repeated)
            temporary = raw_file(folder, node).with_suffix(".tmp.npz")
            np.savez_compressed(temporary, **found)
            temporary.rename(raw_file(folder, node))
            print(raw_file(folder, node), flush=True)


def raw_file(folder: RunFolder, node: Node) -> Path:
    return folder.root / "raw" / f"{node.folder}.npz"


def _trained(bench: Bench, node: Node) -> None:
    if not bench.folder.stage(node).is_dir():
        train(bench, node)


def measured(bench: Bench, node: Node, repeated: bool) -> dict[str, Any]:
    """Numbers by name; columns of log-probabilities are (2, n): chosen and rejected."""
    assert node.parent is not None
    if node.parent.parent is not None:
        _trained(bench, node.parent.parent)
    _trained(bench, node.parent)
    held_out = {}
    for name in node.path:
        n = N_NEW_HELD_OUT if name == node.objective else N_HELD_OUT
        some = bench.preferences.objectives[name].eval[:n]
        held_out[name] = HeldOut([p.pair.pair_id for p in some], [p.tokens for p in some])
    prepared = bench.preferences.objectives[node.objective].train
    base = np.stack(bench.train_logps(None, node.objective))
    shuffled = np.random.default_rng(stage_seed(node)).permutation(len(prepared))
    labels = shuffled[:N_LABELS]
    current = _scored(bench, node.parent, HeldOut([], [prepared[i].tokens for i in labels]))
    found: dict[str, Any] = {"labels_base": base[:, labels], "labels_current": current, "n_train": len(prepared)}
    found |= {f"{name}.base": scored(bench, None, of) for name, of in held_out.items()}
    found |= {f"{name}.current": scored(bench, node.parent, of) for name, of in held_out.items()}
    earlier = {name: HeldOut(of.pair_ids[:N_PROBED], of.tokens[:N_PROBED]) for name, of in held_out.items()}
    del earlier[node.objective]
    pairs = training_pairs(prepared, (base[0], base[1]))
    with trainable_policy(bench.base, bench.keys, bench.folder.adapter(node.parent), stage_seed(node)) as policy:
        found["n_parameters"] = sum(p.numel() for p in policy.parameters() if p.requires_grad)
        some = pairs.take(shuffled[-GRADIENT_PAIRS:].tolist())
        told = forecast(policy, some, earlier, bench.keys)
    found |= {f"{name}.forecast": np.stack(logps) for name, logps in told.items()}
    n = bench.keys.pairs_per_step * PROBED_STEPS
    for control in range(N_CONTROLS + 1):
        found |= probe(bench, node, pairs.take(labels[:n].tolist()), current[:, :n], control, earlier)
    _trained(bench, node)
    found |= {f"{name}.came": scored(bench, node, of) for name, of in held_out.items()}
    if repeated:
        found |= again(bench, node, pairs, held_out)
    return found


def scored(bench: Bench, node: Node | None, of: HeldOut) -> NDArray[np.float64]:
    key = (str(bench.folder.adapter(node)), tuple(of.pair_ids))
    if key not in _SCORED:
        _SCORED[key] = _scored(bench, node, of)
    return _SCORED[key]


def _scored(bench: Bench, node: Node | None, of: HeldOut) -> NDArray[np.float64]:
    with loaded_adapter(bench.base, bench.folder.adapter(node)) as policy:
        return np.stack(pair_logps(policy, of.tokens, bench.keys.tokens_per_batch))


def probe(
    bench: Bench, node: Node, pairs: TrainingPairs, current: Any, control: int, earlier: dict[str, HeldOut]
) -> dict[str, Any]:
    """The first steps of the stage at its full rate, or those of a control stage, scored on the way."""
    keys = bench.keys.model_copy(update={"lr_scheduler_type": "constant"})
    seed, found = stage_seed(node), {}
    if control:
        pairs = with_own_labels(pairs, (current[0], current[1]), keys, np.random.default_rng([seed, control]))
    with trainable_policy(bench.base, keys, bench.folder.adapter(node.parent), seed) as policy:
        train_stage(policy, pairs, keys, seed, lambda step: None)
        for name, of in earlier.items():
            found[f"{name}.probe{PROBED_STEPS}.{control}"] = np.stack(
                pair_logps(policy, of.tokens, keys.tokens_per_batch)
            )
    return found


def again(bench: Bench, node: Node, pairs: TrainingPairs, held_out: dict[str, HeldOut]) -> dict[str, Any]:
    """What comes of the same stage with another seed: how well one run foretells another is all that can be asked."""
    seed = stage_seed(node) + 1
    with trainable_policy(bench.base, bench.keys, bench.folder.adapter(node.parent), seed) as policy:
        train_stage(policy, pairs, bench.keys, seed, lambda step: None)
        return {
            f"{name}.again": np.stack(pair_logps(policy, of.tokens, bench.keys.tokens_per_batch))
            for name, of in held_out.items()
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=RUNS)
    cells(parser.parse_args().runs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
