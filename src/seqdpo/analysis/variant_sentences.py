"""What the variants of an order say, in sentences that a person can act on."""

from seqdpo.analysis.schema import Bounds, ShareOfPlain, ThanPlain, VariantOutcome, Variants

#: As many remedies are named in a sentence at most.
MOST_NAMED = 3


def what_to_take(of: Variants, tolerance: float) -> str:
    """The remedies that kept more than the plain order, the largest sum of shares first, each with what it costs.

    What is shown must be more than the study counts as none, `tolerance`: a paired difference of a tenth of a percent
    is shown, too, and nobody should act on it.
    """
    plain = next(one for one in of.outcomes if one.variant == "plain")
    if any(share.value is None for one in of.outcomes for share in (*one.kept, one.learned)):
        return f"{of.order}: the plain stages taught nothing that a share could be of, so no variant can be judged."
    others = [one for one in of.outcomes if one is not plain and one.chosen and not one.joint]
    kept_more = [one for one in others if _keeps(one) == "more" and _largest_gain(one) > tolerance and one.on_front]
    lost = f"plain training kept {_shares(plain)}"
    if not kept_more:
        shown = f"no variant on the front is shown to keep {tolerance:.0%} more"
        return f"{of.order}: {lost}; {shown}." if others else f"{of.order}: {lost}."
    kept_more.sort(key=lambda one: -_sum(one))
    named = "; ".join(_offer(one) for one in kept_more[:MOST_NAMED])
    more = f" {len(kept_more) - MOST_NAMED} more kept more, too." if len(kept_more) > MOST_NAMED else ""
    return f"{of.order}: {named} ({lost}).{more}{_scope(of)}"


def projection_sentence(of: Variants, tolerance: float) -> str | None:
    """Whether opposition of the gradients was the cause; None where no variant projects and does nothing else.

    "Changes nothing" is a difference whose whole interval lies within the study's tolerance.
    """
    one = next((one for one in of.outcomes if set(one.keys) == {"project"} and one.keys["project"]), None)
    if one is None or any(share.value is None for share in one.kept):
        return None
    numbers = "; ".join(f"{share.objective} {_percent(share.minus_plain, signed=True)}" for share in one.kept)
    if all(_is_within(share.minus_plain, tolerance) for share in one.kept):
        return f"Projecting changes nothing ({numbers}): opposition was not the cause."
    word = _keeps(one)
    if word == "more":
        return f"Projecting keeps more ({numbers}): opposition was a cause, of that part at least."
    if word == "less":
        return f"Projecting keeps less ({numbers}): opposition of the gradients was not what was lost to."
    return f"Whether projecting changes anything is open ({numbers}), and with it whether opposition was the cause."


def _keeps(one: VariantOutcome) -> ThanPlain:
    """Of all earlier objectives together: more of one and less of none is more."""
    words = {share.than_plain for share in one.kept}
    if "less" in words:
        return "less"
    return "more" if "more" in words else "open"


def _largest_gain(one: VariantOutcome) -> float:
    return max(0.0 if share.minus_plain.value is None else share.minus_plain.value for share in one.kept)


def _offer(one: VariantOutcome) -> str:
    learned = one.learned
    lost = Bounds(
        value=_negative(learned.minus_plain.value),
        low=_negative(learned.minus_plain.high),
        high=_negative(learned.minus_plain.low),
    )
    price = f"for {_percent(lost)} of {learned.objective}"
    if learned.than_plain == "more":
        price = f"and learns {_percent(learned.minus_plain)} more of {learned.objective}"
    free = " without more training" if "interpolate" in one.keys else ""
    return f"{one.variant} keeps {_shares(one)}{free} {price}"


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _shares(one: VariantOutcome) -> str:
    return " and ".join(f"{_percent(share)} of {share.objective}" for share in one.kept)


def _sum(one: VariantOutcome) -> float:
    return min(_value(share) for share in one.kept) + _value(one.learned)


def _value(share: ShareOfPlain) -> float:
    return 0.0 if share.value is None else share.value


def _percent(of: Bounds, signed: bool = False) -> str:
    if of.value is None:
        return "an undefined share"
    form = "+.0f" if signed else ".0f"
    interval = "" if of.low is None or of.high is None else f" [{100 * of.low:{form}}, {100 * of.high:{form}}]"
    return f"{100 * of.value:{form}}%{interval}"


def _is_within(of: Bounds, tolerance: float) -> bool:
    return of.low is not None and of.high is not None and -tolerance < of.low and of.high < tolerance


def _scope(of: Variants) -> str:
    if len(of.seeds) >= 3:
        return ""
    return f" {len(of.seeds)} seed{'s' * (len(of.seeds) > 1)}: this speaks of these checkpoints, not yet of the recipe."
