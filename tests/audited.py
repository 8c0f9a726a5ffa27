"""What an audit left, and what plain PEFT and transformers say of the same pairs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from seqdpo.runner.folder import RunFolder

OBJECTIVES = ("harmless", "helpful")
N_PAIRS = 12


def scores(folder: RunFolder, checkpoint: str) -> dict[str, np.ndarray]:
    """By objective, (n_pairs, 2): log-probabilities of the chosen and the rejected response, by pair_id."""
    table = pq.read_table(folder.scores).to_pylist()
    rows = {(row["objective"], row["pair_id"]): row for row in table if row["checkpoint"] == checkpoint}
    return {
        name: np.array(
            [[row["chosen_logp"], row["rejected_logp"]] for (of, _), row in sorted(rows.items()) if of == name]
        )
        for name in dict.fromkeys(name for name, _ in sorted(rows))
    }


def found(folder: RunFolder) -> dict[str, Any]:
    """What the manifest says of each checkpoint."""
    return {one["checkpoint"]: one for one in json.loads(folder.manifest.read_text())["checkpoints"]}


def plain_scores(model: Any, folder: RunFolder) -> dict[str, np.ndarray]:
    """The same as `scores`, of any model of transformers or PEFT: one sequence at a time, by its own logits."""
    tokenizer = AutoTokenizer.from_pretrained(yaml.safe_load(folder.study.read_text())["model_name_or_path"])
    result: dict[str, list[list[float]]] = {}
    table = pq.read_table(folder.pairs).sort_by([("objective", "ascending"), ("pair_id", "ascending")])
    for row in table.to_pylist():
        prompt = [dict(turn) for turn in row["prompt"]]
        start = tokenizer.apply_chat_template(prompt, tokenize=True, add_generation_prompt=True)["input_ids"]
        both = []
        for side in ("chosen", "rejected"):
            turns = [*prompt, {"role": "assistant", "content": row[side]}]
            ids = torch.tensor([tokenizer.apply_chat_template(turns, tokenize=True)["input_ids"]])
            with torch.no_grad():
                logps = model.eval()(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
            both.append(logps.gather(1, ids[0, 1:, None])[len(start) - 1 :].sum().item())
        result.setdefault(row["objective"], []).append(both)
    return {name: np.array(values) for name, values in result.items()}


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray], rtol: float = 1e-5) -> None:
    assert list(actual) == list(expected) == [*OBJECTIVES]
    for name, values in expected.items():
        assert actual[name].shape == (N_PAIRS, 2)
        np.testing.assert_allclose(actual[name], values, rtol=rtol)


def peft_model(base: Path, *adapters: Path, on: Path | None = None) -> Any:
    """Adapters merged in order by PEFT itself, and `on` loaded on top."""
    model = AutoModelForCausalLM.from_pretrained(base)
    for below in adapters:
        model = PeftModel.from_pretrained(model, str(below)).merge_and_unload()
    return model if on is None else PeftModel.from_pretrained(model, str(on))
