"""Makes the second objectives of compatible.yaml and strong_signal.yaml, from files of HH-RLHF and UltraFeedback.

    python examples/real_model/make_pairs.py --hh-rlhf DIR --ultrafeedback FILE     # into runs/real_model/pairs

DIR is a copy of Anthropic/hh-rlhf with harmless-base in it; FILE is the train split of
trl-lib/ultrafeedback_binarized as JSON lines, or gzipped.

quality.jsonl  UltraFeedback's own pairs and labels, without those whose two overall scores are equal.
refuses.jsonl  A label as clear as one can be, made here: the prompt and the rejected response of each row of
               harmless-base, beside a refusal that people of HH-RLHF preferred elsewhere in it. What is preferred
               is always a refusal and what is not hardly ever is, so this is no sample of anyone's preferences.
"""

import argparse
import gzip
import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from seqdpo.preferences.datasets.hh_rlhf import candidates
from seqdpo.preferences.pairs import Pair
from seqdpo.study.objectives import HhRlhfObjective

REFUSAL = re.compile(
    r"(I am|I['’]m)? ?sorry.*(help|appropriate|unsuitable|answer)|I (can|won)['’]t (help|do|answer|assist|tell|give)"
    r"|I cannot|Sorry, I['’]m not allowed",
    flags=re.IGNORECASE,
)  # at the beginning of a response
LONGEST_REFUSAL = 200  # characters; longer ones go on to something else


def main() -> None:
    arguments = parser().parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, rows in [
        ("quality.jsonl", quality(lines(arguments.ultrafeedback))),
        ("refuses.jsonl", refuses(harmless(arguments.hh_rlhf))),
    ]:
        path = arguments.output / name
        n = write(path, rows)
        print(f"{path}: {n:,} pairs")


def quality(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """UltraFeedback's pairs as messages, with the distance of their scores as `strength`."""
    for row in rows:
        scores = row | row.get("metadata", {})  # some copies keep the scores there
        gap = scores["score_chosen"] - scores["score_rejected"]
        if gap > 0 and row["chosen"] and row["rejected"]:
            prompt = row.get("prompt") or row["chosen"][0]["content"]
            chosen, rejected = (_text(row[side]) for side in ("chosen", "rejected"))
            yield {**pair([{"role": "user", "content": prompt}], chosen, rejected), "strength": gap}


def refuses(pairs: list[Pair]) -> Iterator[dict[str, Any]]:
    """Each prompt with a refusal, drawn from those preferred elsewhere, over its own rejected response."""
    refusals = sorted({p.chosen for p in pairs if REFUSAL.match(p.chosen) and len(p.chosen) <= LONGEST_REFUSAL})
    drawn = random.Random(0)
    for p in pairs:
        if not REFUSAL.match(p.rejected):
            prompt = [message.as_dict() for message in p.prompt]
            yield pair(prompt, drawn.choice([r for r in refusals if r != p.chosen]), p.rejected)


def _text(response: str | list[dict[str, str]]) -> str:
    """A response; the hub's copy has the whole dialogue as messages."""
    return response if isinstance(response, str) else response[-1]["content"]


def pair(prompt: list[dict[str, str]], chosen: str, rejected: str) -> dict[str, Any]:
    """A row of TRL's conversational preference format."""
    answers = {"chosen": chosen, "rejected": rejected}
    return {"prompt": prompt} | {side: [{"role": "assistant", "content": text}] for side, text in answers.items()}


def harmless(folder: Path) -> list[Pair]:
    objective = HhRlhfObjective(format="hh-rlhf", subset="harmless-base")
    files = sorted((folder / "harmless-base").glob("*.jsonl.gz"))
    rows = (row for file in files for row in lines(file))
    return [found for found in candidates(rows, objective, None, str(folder)) if isinstance(found, Pair)]


def lines(path: Path) -> Iterator[dict[str, Any]]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def write(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    texts = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(texts), encoding="utf-8")
    return len(texts)


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    described.add_argument("--hh-rlhf", type=Path, required=True)
    described.add_argument("--ultrafeedback", type=Path, required=True)
    described.add_argument("--output", type=Path, default=Path("runs/real_model/pairs"))
    return described


if __name__ == "__main__":
    main()
