"""Variants: sets of keys laid over the later stages of a study; which of them are swept, and which come by name."""

from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from seqdpo.study.checkpoints import Node
    from seqdpo.study.keys import Keys, Variant

    _Keys = TypeVar("_Keys", bound=Keys)

#: What `variants: standard` stands for: the remedies, each at a strength to begin with, and the ceiling.
STANDARD: dict[str, dict[str, Any]] = {
    "previous": {"reference": "previous"},
    "spo": {"reference": "spo"},
    "replay": {"replay": 0.1},
    "ewc": {"ewc": 100},
    "l2": {"l2_to_previous": 0.1},
    "project": {"project": True},
    "interpolate": {"interpolate": [0.25, 0.5, 0.75]},
    "joint": {"joint": True},
}


def spelled_out(value: Any) -> Any:
    """`standard` as what it stands for, and a variant with lists of values as one for each: replay-0.05, replay-0.1."""
    if value == "standard":
        value = STANDARD
    if not isinstance(value, dict):
        return value
    found: dict[Any, Any] = {}
    for name, keys in value.items():
        for more, own in _swept(keys):
            found["-".join((str(name), *more)) if more else name] = own
    return found


def laid_over(keys: "_Keys", node: "Node | None", variants: "Mapping[str, Variant]") -> "_Keys":
    """The keys that a stage is trained with: the study's, and over them those of its variant."""
    if node is None or not node.variant:
        return keys
    own = variants[node.variant]
    names = (own.model_fields_set & keys.__class__.model_fields.keys()) - {"variants"}
    return keys.model_copy(update={name: getattr(own, name) for name in names})


def variant_at(node: "Node", variants: "Mapping[str, Variant]") -> "Variant":
    """The variant of a stage; one without keys for the study's own."""
    from seqdpo.study.keys import Variant

    return variants[node.variant] if node.variant else Variant.model_construct()


def _swept(keys: Any) -> list[tuple[tuple[str, ...], Any]]:
    lists = {name: of for name, of in keys.items() if isinstance(of, list) and of} if isinstance(keys, dict) else {}
    if not lists:
        return [((), keys)]
    choices = product(*lists.values())
    return [(tuple(map(_text, choice)), keys | dict(zip(lists, choice, strict=True))) for choice in choices]


def _text(value: Any) -> str:
    return f"{value:g}".replace("+", "") if isinstance(value, float) else str(value)
