"""The tree of stages with its dependencies, for programs that run it: JSON for any of them, a file for make."""

import json
import shlex
from collections.abc import Mapping, Sequence

from seqdpo.runner.plan import WORKERS, Plan
from seqdpo.study.checkpoints import Node, checkpoint_of, folder_name
from seqdpo.study.keys import TreeKeys, Variant
from seqdpo.study.tree import needs, stage_tree

PLAN_VERSION = 1
_HEAD = """\
# The stages of {output_dir}, for make -jN. First the run folder is prepared, in the end the findings are written.
# What is done is not done again: after an interruption, call make again. Several machines may share the folder.
SEQDPO ?= seqdpo
"""


def plan_json(output_dir: str, plan: Plan) -> str:
    """`needs` names the stages that have to be done before; times are estimates."""
    nodes = [
        {
            "node": folder_name(one.node),
            "checkpoint": checkpoint_of(one.node),
            "needs": _needs(one.node, plan.variants),
            "seed": None if one.node is None else one.node.seed,
            "objective": None if one.node is None else one.node.objective,
            "placebo": 0 if one.node is None else one.node.placebo,
            "steps": one.steps,
            "tokens": one.tokens,
            "seconds": round(one.seconds, 1),
        }
        for one in plan.stages
    ]
    makespans = {str(workers): round(plan.makespan(workers), 1) for workers in (1, *WORKERS)}
    known = {"schema_version": PLAN_VERSION, "output_dir": output_dir, "memory_bytes": plan.memory_bytes}
    return json.dumps(known | {"makespan_seconds": makespans, "nodes": nodes}, indent=2, ensure_ascii=False) + "\n"


def plan_make(keys: TreeKeys, output_dir: str, arguments: Sequence[str]) -> str:
    """`arguments` are those of the command line that named the study: the file and its flags."""
    nodes = [None, *stage_tree(keys)]
    run = _quoted([output_dir])
    rules = [
        _rule("findings", [folder_name(node) for node in nodes], f"analyse {run}"),
        _rule("prepare", [], f"run --prepare {_quoted(arguments)}"),
        *(
            _rule(folder_name(node), _needs(node, keys.variants) or ["prepare"], f"stage {run} {folder_name(node)}")
            for node in nodes
        ),
    ]
    phony = " ".join(["findings", "prepare", *map(folder_name, nodes)])
    return "\n".join([_HEAD.format(output_dir=output_dir.replace("\n", " ")), f".PHONY: {phony}", "", *rules])


def _needs(node: Node | None, variants: Mapping[str, Variant]) -> list[str]:
    return [] if node is None else [folder_name(other) for other in needs(node, variants)]


def _rule(target: str, needs: Sequence[str], command: str) -> str:
    return f"{' '.join([f'{target}:', *needs])}\n\t$(SEQDPO) {command}\n"


def _quoted(arguments: Sequence[str]) -> str:
    """For the shell, then for make."""
    return shlex.join(arguments).replace("$", "$$")
