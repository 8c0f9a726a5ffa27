"""The words of the findings, each once: what it means, and how every surface shows it.

A word without an entry fails a test, not a reader's page.
"""

from typing import Literal, NamedTuple, TypeAlias, get_args

from seqdpo.analysis.changes import FLIPS
from seqdpo.analysis.gate import Outcome
from seqdpo.analysis.schema import Books, EndWord, LearnedWord, Opposition, PairMeasure, RecipeStatement, Tag, Word

#: What a word says of the earlier objective; page.css has a class for each.
Tone: TypeAlias = Literal["bad", "good", "mixed", "open"]
TONES: tuple[Tone, ...] = get_args(Tone)
#: Of text on a terminal.
TERMINAL: dict[Tone, str] = {"bad": "red", "good": "green", "mixed": "yellow", "open": ""}


class VerdictWord(NamedTuple):
    tone: Tone
    icon: str  # beside the word, so that colour is never alone
    meaning: str


VERDICTS: dict[Word, VerdictWord] = {
    "DEGRADED": VerdictWord("bad", "▼", "the mean margin, or the accuracy, fell by more than the tolerance"),
    "BELOW BASE": VerdictWord("bad", "⤓", "what the base could do is lost, though nothing was learned on top of it"),
    "MIXED": VerdictWord("mixed", "◆", "margin and accuracy moved in opposite directions"),
    "REDISTRIBUTED": VerdictWord("mixed", "⇅", "the mean margin held, but pairs changed places beyond control stages"),
    "STABLE": VerdictWord(
        "good", "＝", "any change is within the tolerance; margin only: of the accuracy that is open"
    ),
    "POSITIVE TRANSFER": VerdictWord("good", "▲", "the mean margin, or the accuracy, rose by more than the tolerance"),
    "INCONCLUSIVE": VerdictWord("open", "?", "these pairs cannot tell"),
    "UNDEFINED": VerdictWord("open", "–", "nothing was learned that could be lost"),
}


#: Beside a verdict.
TAGS: dict[Tag, str] = {
    "redistributed": "pairs changed places, beyond the control stages",
    "scale only": "all margins were multiplied by one number; nothing else shows",
    "below base": "the policy prefers fewer chosen responses than the base did",
}


class StateWord(NamedTuple):
    tone: Tone
    icon: str
    meaning: str


#: Of a stage and its own objective.
LEARNED: dict[LearnedWord, StateWord] = {
    "LEARNED": StateWord("good", "✓", "the mean margin is above 0, and more than half of the pairs are right"),
    "NOT LEARNED": StateWord("bad", "✗", "the mean margin is below 0, or no more than half of the pairs are right"),
    "INCONCLUSIVE": StateWord("open", "?", "these pairs cannot tell"),
}
#: Of an objective under the last checkpoint of an order.
AT_THE_END: dict[EndWord, StateWord] = {
    "PRESENT": StateWord("good", "✓", "the mean margin is above 0, and more than half of the pairs are right"),
    "ABSENT": StateWord("bad", "✗", "the mean margin is below 0, or no more than half of the pairs are right"),
    "BELOW BASE": StateWord("bad", "⤓", "the policy ranks fewer pairs rightly than the base did"),
    "INCONCLUSIVE": StateWord("open", "?", "these pairs cannot tell"),
}


class RecipeWord(NamedTuple):
    short: str  # in a column of a terminal
    meaning: str


RECIPES: dict[RecipeStatement, RecipeWord] = {
    "ATTRIBUTABLE": RecipeWord("attributable", "control stages and seeds do not change this much by themselves"),
    "NOT SEPARABLE FROM RUN NOISE": RecipeWord("not separable", "control stages or seeds change as much by themselves"),
    "UNTESTED": RecipeWord("untested", "there are no control stages, and too few seeds"),
}


class FlipWord(NamedTuple):
    meaning: str  # of a pair between two checkpoints
    in_two_runs: str
    colour: str  # of a picture
    shape: str
    terminal: str


#: In the order of `analyse.changes.FLIPS`; the colours are Okabe and Ito's.
FLIP_WORDS: dict[str, FlipWord] = {
    "kept": FlipWord("stayed right", "right in both", "#0072B2", "circle", ""),
    "lost": FlipWord("turned wrong", "right only in A", "#D55E00", "triangle-down", "red"),
    "regained": FlipWord("turned right", "right only in B", "#009E73", "triangle-up", "green"),
    "never": FlipWord("stayed wrong", "wrong in both", "#8a8a8a", "cross", "dim"),
    "tied": FlipWord("margin of 0", "margin of 0", "#CC79A7", "diamond", "dim"),
}
assert tuple(FLIP_WORDS) == FLIPS

GATE: dict[Outcome, Tone] = {"passed": "good", "failed": "bad", "open": "mixed"}

#: The unit of a measure, and what its two sides are.
UNITS: dict[PairMeasure, str] = {
    "margin": "nats",
    "ln_margin": "nats a token",
    "ln_margin_base_corrected": "nats a token",
}
SIDES: dict[PairMeasure, str] = {
    "margin": "log-probabilities in nats against the base",
    "ln_margin": "the policy's log-probabilities, nats a token of the response",
    "ln_margin_base_corrected": "log-probabilities against the base, nats a token of the response",
}

#: What the gradients of two objectives do; near 0 is a cosine within a bound that the sentence states.
OPPOSITION: dict[Opposition, str] = {
    "opposed": "the gradients of the two objectives oppose each other",
    "near-orthogonal": "the gradients of the two objectives are near-orthogonal",
    "aligned": "the gradients of the two objectives point the same way",
    "unresolved": "these batches cannot tell whether the gradients are near-orthogonal",
}
#: Whether the steps account for what happened.
BOOKS: dict[Books, str] = {
    "confirmed": "The steps, times the earlier gradient, account for it",
    "contradicted": "The steps, times the earlier gradient, promised the opposite, so it was no first-order effect",
    "unresolved": "The steps, times the earlier gradient, do not settle why",
}
