"""`seqdpo preflight`: what can be said of the next stages before they are trained; preflight.json of a run folder."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from seqdpo.analysis.label_pull import Judged, label_conflicts, numbered, share
from seqdpo.analysis.preflight import (
    PREFLIGHT_VERSION,
    Conflict,
    Cost,
    Power,
    Preflights,
    RemedyCost,
    StagePreflight,
    better_orders,
    power_of,
    reach_by_controls,
    read_preflights,
    stage_preflight,
)
from seqdpo.analysis.schema import to_json
from seqdpo.errors import ConfigError, DataError
from seqdpo.files import set_aside, write_sealed
from seqdpo.launched import check_alone
from seqdpo.layout import NODE_FILE
from seqdpo.preferences.prepare import Preferences, PreparedPair
from seqdpo.runner.board import Board, Task, board_for
from seqdpo.runner.can_show import claim_levels
from seqdpo.runner.executors import here
from seqdpo.runner.folder import RunFolder
from seqdpo.runner.preflight_signals import PreflightSize, preflight_size, signals
from seqdpo.runner.stage import title
from seqdpo.runner.study import Inputs, logged, prepared, study_bench
from seqdpo.runner.work import FORWARD_COST, base_work, stage_work, training_cost
from seqdpo.screen import Screen
from seqdpo.study.checkpoints import Checkpoint, Node, checkpoint_of
from seqdpo.study.config import Study
from seqdpo.study.keys import DesignKeys, OptimiserKeys, TreeKeys
from seqdpo.study.tree import find_node, stage_tree
from seqdpo.training.stage import n_steps

#: A preflight's passes as a share of the stage's training passes, unless another is asked for.
SHARE = 0.15
#: Of the way between two checkpoints that an interpolation scores.
N_PLACES = 3


def preflight(study: Study, stages: Sequence[str] = (), share: float = SHARE) -> Preflights:
    """What can be said of the next stages of a study before they are trained; none of them is.

    Of every later stage whose parent is trained and that is not trained itself, or of the `stages` that are named, also
    trained ones. Takes at most about `share` of each stage's training passes. Writes preflight.json into the run
    folder, which is made ready as by `seqdpo run --prepare`.

    Raises: as `seqdpo.run`; ConfigError for a stage that no preflight is made of.
    """
    check_alone("seqdpo.preflight(study)")
    with board_for(Screen()) as board:
        return run_preflight(study, board, stages, share)


def run_preflight(study: Study, board: Board, names: Sequence[str] = (), share: float = SHARE) -> Preflights:
    """The same on a board."""
    folder, inputs = prepared(study, board)
    with folder.locked(), logged(folder, board):
        asked = _asked(folder, inputs, names)
        records = _measured(folder, inputs, asked, board, share) if asked.nodes or asked.given else []
        found = _together(folder, inputs, asked, records)
        write_sealed(folder.preflight, to_json(found) | {"identity": inputs.identity})
        folder.log("preflight", stages=[one.checkpoint for one in records])
    return found


class _Asked(NamedTuple):
    given: list[Node | None]  # to be scored first, of a study that starts from an adapter: the base, and its stage
    nodes: list[Node]
    waiting: list[Node]  # whose parent is not trained


def _asked(folder: RunFolder, inputs: Inputs, names: Sequence[str]) -> _Asked:
    study: TreeKeys = inputs.study
    tree = stage_tree(study)
    given = [None, *(node for node in tree if node.stage == 1)] if inputs.start is not None else []
    given = [node for node in given if not _is_done(folder, node)]
    if names:
        nodes = [_named(folder, study, name, given) for name in names]
        return _Asked(given, nodes, [])
    later = [node for node in tree if node.stage > 1 and not node.placebo]
    left = [node for node in later if not _is_done(folder, node)]
    if later and not left:
        raise ConfigError(
            f"{folder.root}: every later stage is trained; expected one that is not. Name it to look back: --stage "
            f"{later[0].checkpoint.replace('>', '/')}"
        )
    ready = [node for node in left if _is_done(folder, node.parent) or node.parent in given]
    return _Asked(given, ready, [node for node in left if node not in ready])


def _named(folder: RunFolder, study: TreeKeys, name: str, given: Sequence[Node | None]) -> Node:
    node = find_node(study, name)
    if node is None or node.stage == 1 or node.placebo:
        raise ConfigError(
            f"--stage {name}: {'the base' if node is None else checkpoint_of(node)} has no earlier objective or is a "
            "control stage; expected a later stage, as `seqdpo plan` shows them."
        )
    if not _is_done(folder, node.parent) and node.parent not in given:
        raise ConfigError(
            f"--stage {name}: starts from {checkpoint_of(node.parent)!r}, which is not trained; expected it in "
            f"{folder.stage(node.parent)}. Run it first: seqdpo stage {folder.root} {folder.stage(node.parent).name}"
        )
    return node


def _is_done(folder: RunFolder, node: Node | None) -> bool:
    return (folder.stage(node) / NODE_FILE).is_file()


def _measured(folder: RunFolder, inputs: Inputs, asked: _Asked, board: Board, most: float) -> list[StagePreflight]:
    study, preferences = inputs.study, inputs.preferences
    bench = study_bench(inputs, folder, board.advance, board.message)
    sizes = {node: _size(node, preferences, study, most) for node in asked.nodes}
    given = [Task(title(node), _given_work(node, inputs)) for node in asked.given]
    board.begin([*given, *(Task(_task(node), size.units) for node, size in sizes.items())])
    here.execute(bench, asked.given, board)
    records = []
    for node, size in sizes.items():
        board.start(_task(node))
        found = signals(bench, node, size)
        cost = _cost(node, size, preferences, study)
        records.append(
            stage_preflight(node.seed, Checkpoint(node.path), found, cost, _remedies(node, preferences, study), study)
        )
        board.finish(f"{size.share:.0%} of its training passes", _task(node))
    board.end()
    return records


def _given_work(node: Node | None, inputs: Inputs) -> float:
    study, preferences = inputs.study, inputs.preferences
    work = base_work(preferences, study) if node is None else stage_work(node, preferences, study)
    return work.units(study)


def _task(node: Node) -> str:
    return f"before {title(node)}"


def _size(node: Node, preferences: Preferences, keys: OptimiserKeys, share: float) -> PreflightSize:
    n_pairs = len(preferences.objectives[node.objective].train)
    n_held_out = max(len(preferences.objectives[name].eval) for name in node.path[:-1])
    return preflight_size(n_pairs, node.stage - 1, n_held_out, keys, share)


def _cost(node: Node, size: PreflightSize, preferences: Preferences, keys: OptimiserKeys) -> Cost:
    return Cost(
        label_pairs=size.labels,
        gradient_pairs=size.gradient,
        held_out_pairs=size.held_out,
        probe_steps=size.steps,
        stage_steps=n_steps(len(preferences.objectives[node.objective].train), keys),
        passes=size.units,
        share=size.share,
    )


def _remedies(node: Node, preferences: Preferences, keys: OptimiserKeys) -> list[RemedyCost]:
    """Passes beside those of the stage; replay takes the place of new pairs, so it adds none."""
    n_pairs, one = len(preferences.objectives[node.objective].train), training_cost(keys) * keys.num_train_epochs
    n_held_out = sum(len(objective.eval) for objective in preferences.objectives.values())
    joint = sum(len(preferences.objectives[name].train) for name in node.path) * one
    costs = {
        "replay in place of new pairs": 0.0,
        "reference: previous": n_pairs * FORWARD_COST,
        f"interpolation at {N_PLACES} places": N_PLACES * n_held_out * FORWARD_COST,
        "all objectives in one stage, instead": joint,
    }
    return [RemedyCost(remedy=name, passes=passes, share=passes / (n_pairs * one)) for name, passes in costs.items()]


def _together(folder: RunFolder, inputs: Inputs, asked: _Asked, records: Sequence[StagePreflight]) -> Preflights:
    """With what an earlier preflight of the same study found of other stages."""
    study: DesignKeys = inputs.study
    levels, new = claim_levels(study), {(one.seed, one.checkpoint): one for one in records}
    known = {(one.seed, one.checkpoint): one for one in _earlier(folder, inputs)} | new
    places = {(node.seed, node.checkpoint): i for i, node in enumerate(stage_tree(study))}
    stages = tuple(known[key] for key in sorted(known.keys() & places.keys(), key=places.__getitem__))
    return Preflights(
        schema_version=PREFLIGHT_VERSION,
        stages=stages,
        orders=better_orders(stages),
        conflicts=_conflicts(inputs.preferences, study),
        power=_power(inputs.preferences, study),
        reach=reach_by_controls(len(study.seeds), levels.recipe),
        waiting=tuple(dict.fromkeys(node.checkpoint for node in asked.waiting)),
    )


def _earlier(folder: RunFolder, inputs: Inputs) -> Sequence[StagePreflight]:
    """What is there and was found of the same model, data and keys; what cannot be read is set aside."""
    if not folder.preflight.is_file():
        return ()
    try:
        found, identity = read_preflights(folder.preflight)
    except DataError:
        set_aside(folder.preflight)
        return ()
    return found.stages if identity == inputs.identity else ()


def _conflicts(preferences: Preferences, keys: DesignKeys) -> tuple[Conflict, ...]:
    """Of every two objectives of an order that judge the same responses; from the labels alone."""
    together = {frozenset(pair) for order in keys.all_orders() for pair in combinations(order, 2)}
    found = []
    for one, other in combinations(preferences.objectives, 2):
        if frozenset((one, other)) not in together:
            continue
        of = [_judged(preferences.objectives[name].pairs) for name in (other, one)]
        column, prompts = label_conflicts(*of)
        if len(column):
            differing = share(column, numbered(prompts), column, keys.confidence)
            found.append(Conflict(objective=one, other=other, differing=differing))
    return tuple(found)


def _judged(pairs: Sequence[PreparedPair]) -> list[Judged]:
    return [
        Judged(frozenset((one.pair.chosen, one.pair.rejected)), one.pair.chosen, one.pair.prompt_hash) for one in pairs
    ]


def _power(preferences: Preferences, keys: DesignKeys) -> tuple[Power, ...]:
    level, names = claim_levels(keys).checkpoint, {name for order in keys.all_orders() for name in order[:-1]}
    return tuple(
        power_of(name, numbered([one.pair.prompt_id for one in objective.eval]), keys, level)
        for name, objective in preferences.objectives.items()
        if name in names and objective.eval
    )
