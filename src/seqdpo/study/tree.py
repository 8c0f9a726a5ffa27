"""The tree of stages: orders that begin alike share their stages, control stages are its leaves.

A variant of a study has its own later stages, which grow from the same first ones.
"""

from collections.abc import Iterator, Mapping

from seqdpo.errors import ConfigError
from seqdpo.study.checkpoints import Node, checkpoint_of, folder_name, together, typed
from seqdpo.study.keys import TreeKeys, Variant
from seqdpo.wording import did_you_mean


def stage_tree(keys: TreeKeys) -> list[Node]:
    """Every stage of a study once, after all that it needs, control stages after the real one."""
    return list(dict.fromkeys(node for seed in keys.seeds for of in tracks(keys) for node in along(seed, *of, keys)))


def tracks(keys: TreeKeys) -> list[tuple[tuple[str, ...], str]]:
    """The orders with the study's own keys, the stages on all objectives at once, then each variant of each order.

    A variant of an order of one stage would be that order itself.
    """
    orders = keys.all_orders()
    plain = [*orders, *((together(of),) for of in keys.joint_orders())]
    later = [(order, name) for name in keys.later_variants() for order in orders if len(order) > 1]
    return [*((order, "") for order in plain), *later]


def along(seed: int, order: tuple[str, ...], variant: str, keys: TreeKeys) -> Iterator[Node]:
    """The stages of an order, each with its control stages."""
    for stage in range(1, len(order) + 1):
        real = Node(seed, order, 0, variant).upto(stage)
        yield real
        for placebo in range(1, (keys.placebo if stage > 1 else 0) + 1):
            yield Node(seed, real.path, placebo, real.variant)


def needs(node: Node, variants: Mapping[str, Variant]) -> list[Node | None]:
    """The stages that have to be done before this one; None is the base.

    The reference of its loss is one of its ancestors.
    """
    made_of_plain = bool(node.variant) and not variants[node.variant].is_trained
    return [node.parent, *([node.plain] if made_of_plain else [])]


def find_node(keys: TreeKeys, name: str) -> Node | None:
    """The stage that a folder's or a checkpoint's name names; None: the base.

    Raises: ConfigError if it names none, or a checkpoint that several seeds have.
    """
    nodes = [None, *stage_tree(keys)]
    found = [node for node in nodes if typed(name) in (folder_name(node), checkpoint_of(node))]
    if len(found) == 1:
        return found[0]
    folders = [folder_name(node) for node in found]
    if folders:
        raise ConfigError(f"stage: {name!r} is of several seeds; expected one of {', '.join(folders)}. Name one.")
    names = [*map(folder_name, nodes), *map(checkpoint_of, nodes)]
    raise ConfigError(
        f"stage: {name!r} is no stage of this study; expected a name that `seqdpo plan --format json` prints, as "
        f"{folder_name(nodes[-1])!r}.{did_you_mean(name, names)}"
    )
