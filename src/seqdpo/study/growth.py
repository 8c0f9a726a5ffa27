"""What a study may become in the folder of an earlier run: more, and never less."""

from collections.abc import Mapping
from itertools import permutations
from typing import Any

from seqdpo.errors import ConfigError
from seqdpo.study.config import Study
from seqdpo.study.flat import flat
from seqdpo.study.keys import Keys


def grown(study: Study, earlier: Study) -> Study:
    """The study with all that an earlier run of it has: its seeds, orders, control stages, variants, objectives and
    pairs.

    What differs in any other way stays as it is asked for, and is for others to refuse.
    """
    values, before = study.model_dump(mode="json"), earlier.model_dump(mode="json")
    objectives = before["objectives"] | values["objectives"]
    for name, own in before["objectives"].items():
        limits = (own["max_eval_pairs"], objectives[name]["max_eval_pairs"])
        if None not in limits:  # null is the study's
            objectives[name] = objectives[name] | {"max_eval_pairs": max(limits)}
    orders = list(dict.fromkeys([*earlier.all_orders(), *study.all_orders()]))
    every = set(orders) == set(permutations(objectives))
    more: dict[str, Any] = {
        "objectives": objectives,
        "orders": "all" if every else [list(order) for order in orders],
        "seeds": list(dict.fromkeys([*earlier.seeds, *study.seeds])),
        "placebo": max(earlier.placebo, study.placebo),
        "variants": before["variants"] | values["variants"],
        "max_eval_pairs": _larger(values, before),
    }
    if set(objectives) != set(values["objectives"]):  # those of a setting, and more
        more["setting"] = before["setting"]
    return Study.model_validate(values | more)


def with_more_pairs(study: Study, max_eval_pairs: int) -> Study:
    """The study with at least so many held-out pairs of every objective, as far as its source has them.

    Raises: ConfigError if every objective was allowed as many before.
    """
    limits = {name: study.eval_limit(name) for name in study.objectives}
    if all(limit is None or limit >= max_eval_pairs for limit in limits.values()):
        allowed = min(limit for limit in limits.values() if limit is not None) if any(limits.values()) else "all"
        raise ConfigError(
            f"--max-eval-pairs = {max_eval_pairs}: the run was allowed {allowed} of every objective; expected more "
            "than that. Name a larger number."
        )
    values = study.model_dump(mode="json")
    if study.max_eval_pairs is not None:
        values["max_eval_pairs"] = max(study.max_eval_pairs, max_eval_pairs)
    for objective in values["objectives"].values():
        if objective["max_eval_pairs"] is not None:
            objective["max_eval_pairs"] = max(objective["max_eval_pairs"], max_eval_pairs)
    return Study.model_validate(values)


def growing_keys(study: Keys, earlier: Keys) -> set[str]:
    """Dotted keys in which a study may differ from an earlier run whose checkpoints then score more pairs: larger
    limits of held-out pairs, and objectives that are new."""
    if not (isinstance(study, Study) and isinstance(earlier, Study)):
        return set()
    found = {"max_eval_pairs"} if _is_larger(study.max_eval_pairs, earlier.max_eval_pairs) else set()
    values = dict(flat(study.model_dump(mode="json", include={"objectives"})))
    added = set(study.objectives) - set(earlier.objectives)
    found |= {key for key in values if key.split(".")[1] in added}
    if added and study.setting is None:
        found.add("setting")
    common = set(study.objectives) & set(earlier.objectives)
    limits = {name: (study.objectives[name].max_eval_pairs, earlier.objectives[name].max_eval_pairs) for name in common}
    larger = (name for name, (here, there) in limits.items() if here and there and here > there)
    return found | {f"objectives.{name}.max_eval_pairs" for name in larger}


def _larger(one: Mapping[str, Any], other: Mapping[str, Any]) -> int | None:
    """Of two limits of held-out pairs; null is none at all."""
    limits = one["max_eval_pairs"], other["max_eval_pairs"]
    return None if None in limits else max(limits)


def _is_larger(here: int | None, there: int | None) -> bool:
    return there is not None and (here is None or here > there)
