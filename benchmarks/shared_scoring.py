"""What is saved by scoring a response once? `python benchmarks/shared_scoring.py`; two minutes on one core.

Made-up rows in the schemas of HelpSteer2, PKU-SafeRLHF and UltraFeedback, with as many responses a prompt as there, are
read by the formats of seqdpo as the two objectives of each setting, and scored under a random Llama of 13M parameters:
pair by pair, as if nothing were shared, and as seqdpo does. The words are random and the lengths log-normal; which
responses the objectives have in common follows from the ratings, whose correlation is made up.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import numpy as np
import torch
from tables import report
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from seqdpo.measure.scores import PairLogps, n_tokens_read, objective_logps
from seqdpo.policy.engine import choose_engine
from seqdpo.policy.load import load_model
from seqdpo.runner.bench import tokens_of
from seqdpo.runner.inputs import read_preferences
from seqdpo.study.config import Study
from seqdpo.study.settings import SETTINGS

N_WORDS = 4_000
SPECIAL = ["<bos>", "<pad>", "<end>", "<user>", "<assistant>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<' + message['role'] + '> ' + message['content'] + ' <end> ' }}{% endfor %}"
)
N_TRAIN = 5  # prompts that nothing is measured on
Rows = Iterator[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=30)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        make_model(Path(folder, "model"))
        rows = [row for setting in ROWS for row in measured(setting, chosen.prompts, Path(folder))]
    report("shared_scoring", rows, f"{chosen.prompts} prompts a setting, float32, one thread; CPU seconds.")


def measured(setting: str, n_prompts: int, folder: Path) -> Iterator[dict[str, Any]]:
    study = study_of(setting, n_prompts, folder)
    preferences, _ = read_preferences(study, lambda text: None)
    objectives = tokens_of(preferences.held_out)
    pairs = [pair for of in objectives.values() for pair in of]
    texts = [(pair.prompt.tobytes(), response.tobytes()) for pair in pairs for response in pair.responses]
    for engine in ("packed", "padded"):
        model = load_model(study)  # as it is loaded, it pads
        if engine == "packed":
            choose_engine(model, preferences.longest)
        apart, seconds_apart = timed(
            partial(objective_logps, model, objectives, None, tail_weight=1.0)
        )  # shares nothing
        once, seconds_once = timed(partial(objective_logps, model, objectives, None))
        yield {
            "setting": setting,
            "engine": engine,
            "pairs": len(pairs),
            "responses": len(texts),
            "distinct": len(set(texts)),
            "tokens pair by pair": n_tokens_read(objectives, tail_weight=1.0),
            "tokens": n_tokens_read(objectives),
            "seconds pair by pair": seconds_apart,
            "seconds": seconds_once,
            "ratio": seconds_apart / seconds_once,
            "largest relative difference": max(difference(apart[name], once[name]) for name in once),
        }


def timed(work: Callable[[], dict[str, PairLogps]]) -> tuple[dict[str, PairLogps], float]:
    began = process_time()
    return work(), process_time() - began


def difference(one: PairLogps, other: PairLogps) -> float:
    return float(np.max(np.abs(np.stack(one) / np.stack(other) - 1)))


def study_of(setting: str, n_prompts: int, folder: Path) -> Study:
    """The setting's two objectives on made-up rows."""
    generator = np.random.default_rng(0)
    paths = {}
    for split, n in (("train", N_TRAIN), ("eval", n_prompts)):
        paths[split] = folder / f"{setting}-{split}.jsonl"
        rows = (row for _ in range(n) for row in ROWS[setting](generator))
        paths[split].write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {split: str(path) for split, path in paths.items()}
    objectives = SETTINGS[setting].objectives.items()
    return Study.model_validate(
        {
            "model_name_or_path": str(folder / "model"),
            "dtype": "float32",
            "objectives": {name: one.model_dump() | {"dataset_name": source} for name, one in objectives},
            "max_length": 2048,
            "output_dir": "runs/unused",
        }
    )


def words(generator: np.random.Generator, median: int) -> str:
    """A word is a token."""
    n = int(np.clip(generator.lognormal(np.log(median), 0.7), 1, 600))
    return " ".join(f"w{i}" for i in generator.integers(N_WORDS, size=n))


def ratings(generator: np.random.Generator, n: int, correlation: float) -> np.ndarray:
    """(2, n) of 0 to 4, in two respects."""
    first, noise = generator.normal(2.7, 1, (2, n))
    second = 2.7 + correlation * (first - 2.7) + np.sqrt(1 - correlation**2) * (noise - 2.7)
    return np.clip(np.round([first, second]), 0, 4).astype(int)


def helpsteer2(generator: np.random.Generator) -> Rows:
    """Two responses a prompt, in adjacent rows."""
    prompt = words(generator, 60)
    for helpfulness, verbosity in ratings(generator, 2, 0.2).T.tolist():
        rated = {"helpfulness": helpfulness, "correctness": 3, "coherence": 4, "complexity": 2, "verbosity": verbosity}
        yield {"prompt": prompt, "response": words(generator, 250), **rated}


def pku_saferlhf(generator: np.random.Generator) -> Rows:
    """A prompt in one to three rows, of two responses each; in four of ten rows one is safe and one is not."""
    prompt = words(generator, 20)
    for _ in range(generator.integers(1, 4)):
        safe = [True, False] if generator.random() < 0.4 else [bool(generator.random() < 0.5)] * 2
        row: dict[str, Any] = {"prompt": prompt, "prompt_source": "made up"}
        for i in (0, 1):
            row |= {
                f"response_{i}": words(generator, 70),
                f"is_response_{i}_safe": safe[i],
                f"response_{i}_severity_level": 0 if safe[i] else 2,
                f"response_{i}_harm_category": {"Violence": not safe[i]},
            }
        yield row | {"better_response_id": int(generator.integers(2)), "safer_response_id": int(not safe[0])}


def ultrafeedback(generator: np.random.Generator) -> Rows:
    """Four completions of an instruction, in two respects that mostly agree."""
    completions = []
    for helpfulness, honesty in (1 + ratings(generator, 4, 0.6)).T.tolist():
        rated = {"helpfulness": helpfulness, "honesty": honesty, "instruction_following": 3, "truthfulness": 3}
        annotations = {aspect: {"Rating": str(rating), "Rationale": ""} for aspect, rating in rated.items()}
        completions.append({"model": "made up", "response": words(generator, 200), "annotations": annotations})
    yield {"source": "made up", "instruction": words(generator, 80), "models": [], "completions": completions}


ROWS: dict[str, Callable[[np.random.Generator], Rows]] = {
    "helpsteer2": helpsteer2,
    "pku-saferlhf": pku_saferlhf,
    "ultrafeedback": ultrafeedback,
}


def make_model(folder: Path) -> None:
    vocabulary = [*SPECIAL, *(f"w{i}" for i in range(N_WORDS))]
    words_only = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<pad>"))
    words_only.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=words_only, bos_token="<bos>", eos_token="<end>", pad_token="<pad>", chat_template=TEMPLATE
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


if __name__ == "__main__":
    main()
