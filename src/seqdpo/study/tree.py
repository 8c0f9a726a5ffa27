"""The tree of stages: orders that begin alike share their stages, control stages are its leaves."""

from seqdpo.study.checkpoints import Node
from seqdpo.study.keys import TreeKeys


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
