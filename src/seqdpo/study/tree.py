"""The tree of stages: orders that begin alike share their stages, control stages are its leaves."""

from seqdpo.errors import ConfigError
from seqdpo.study.checkpoints import Node, checkpoint_of, folder_name, typed
from seqdpo.study.keys import TreeKeys
from seqdpo.wording import did_you_mean


def stage_tree(keys: TreeKeys) -> list[Node]:
    """Every stage of a study once, parents before their children, control stages after the real one."""
    nodes: dict[Node, None] = {}  # an ordered set
    for seed in keys.seeds:
        for order in keys.all_orders():
            for stage in range(1, len(order) + 1):
                controls = keys.placebo if stage > 1 else 0
                for placebo in range(controls + 1):
                    nodes[Node(seed, order[:stage], placebo)] = None
    return list(nodes)


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
