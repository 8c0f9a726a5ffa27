"""The held-out pairs under every checkpoint, as samples that other tools' viewers open.

Forms: lm-evaluation-harness, as its `--log_samples` writes them, and Inspect's JSON log (version 2). Control stages are
left out. What seqdpo measures is the same in both: margin against the base, and accuracy, a tie one half.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from seqdpo.analysis.panel import At, Panel
from seqdpo.report.finished import Run
from seqdpo.study.checkpoints import Checkpoint, Node

SamplesForm: TypeAlias = Literal["lm-eval", "inspect"]
FORMS: tuple[SamplesForm, ...] = get_args(SamplesForm)
_ROLES = ("system", "user", "assistant", "tool")


class _Scored(NamedTuple):
    """One objective's pairs under one checkpoint."""

    objective: str
    model: str  # a name that is safe in a path: base, seed0.helpful.harmless
    rows: Sequence[Mapping[str, Any]]  # pair_id, texts, log-probabilities, margin, accuracy; undefined is None

    def mean(self, name: str) -> float | None:
        """Over the pairs; None where one of them is undefined."""
        values = [row[name] for row in self.rows]
        return None if None in values or not values else sum(values) / len(values)


def samples(run: Run, form: SamplesForm, when: datetime) -> Iterator[tuple[str, str]]:
    """Relative path and content of every file; `when` goes into names and logs."""
    scored = [one for panel in run.panels() for one in _scored(run, panel)]
    if form == "inspect":
        for one in scored:
            log = _inspect_log(one, when)  # which Inspect knows by the id in its name
            yield f"{_stamp(when)}_{one.objective.replace('_', '-')}_{log['eval']['task_id']}.json", _json(log)
        return
    for model in dict.fromkeys(one.model for one in scored):
        own = [one for one in scored if one.model == model]
        lines = {one.objective: [_lm_eval_sample(i, one, row) for i, row in enumerate(one.rows)] for one in own}
        yield f"{model}/results_{_stamp(when)}.json", _json(_lm_eval_results(own, lines, when))
        for task, of_task in lines.items():
            text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in of_task)
            yield f"{model}/samples_{task}_{_stamp(when)}.jsonl", text


def _scored(run: Run, panel: Panel) -> Iterator[_Scored]:
    texts = run.texts(panel.objective, panel.split, panel.pair_ids).to_pylist()
    seen = set()
    for at in panel.checkpoints:
        model = _model(at, panel.names[at])
        if at.placebo or model in seen:  # a checkpoint that several orders share
            continue
        seen.add(model)
        scores = panel.checkpoints[at]
        columns = {
            name: _numbers(getattr(scores, name))
            for name in ("chosen_logp", "rejected_logp", "base_chosen_logp", "base_rejected_logp", "margin", "accuracy")
        }
        ids = panel.pair_ids.to_pylist()
        rows = [
            {"pair_id": pair_id, **texts[i], **{name: values[i] for name, values in columns.items()}}
            for i, pair_id in enumerate(ids)
        ]
        yield _Scored(panel.objective, model, rows)


def _model(at: At, name: str) -> str:
    return name if at.stage == 0 else Node.of(at.seed, Checkpoint.parse(name)).folder


def _numbers(column: np.ndarray) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in column.tolist()]


# lm-evaluation-harness


def _lm_eval_sample(number: int, of: _Scored, row: Mapping[str, Any]) -> dict[str, Any]:
    """As of a task of multiple choice: the chosen response is the first of two, and the target."""
    doc = {key: row[key] for key in ("pair_id", "prompt", "chosen", "rejected")}
    prompt = "\n\n".join(f"{message['role']}: {message['content']}" for message in row["prompt"] or [])
    resps = [[str(row["chosen_logp"]), "False"], [str(row["rejected_logp"]), "False"]]
    return {
        "doc_id": number,
        "doc": doc,
        "target": "0",
        "arguments": {
            f"gen_args_{i}": {"arg_0": prompt, "arg_1": row[side]} for i, side in enumerate(("chosen", "rejected"))
        },
        "resps": [[one] for one in resps],
        "filtered_resps": resps,
        "filter": "none",
        "metrics": ["accuracy", "margin"],
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(prompt),
        "target_hash": _hash("0"),
        "accuracy": row["accuracy"],
        "margin": row["margin"],
    }


def _lm_eval_results(
    of: Sequence[_Scored], lines: Mapping[str, Sequence[Mapping[str, Any]]], when: datetime
) -> dict[str, Any]:
    tasks = [one.objective for one in of]
    hashes = {
        task: _hash("".join(line["doc_hash"] + line["prompt_hash"] + line["target_hash"] for line in lines[task]))
        for task in tasks
    }
    return {
        "results": {
            one.objective: {
                "name": one.objective,
                "alias": one.objective,
                "sample_len": len(one.rows),
                **{f"{name},none": one.mean(name) for name in ("accuracy", "margin")},
                **{f"{name}_stderr,none": "N/A" for name in ("accuracy", "margin")},
            }
            for one in of
        },
        "group_subtasks": {task: [] for task in tasks},
        "configs": {task: {"task": task, "output_type": "multiple_choice", "num_fewshot": 0} for task in tasks},
        "versions": dict.fromkeys(tasks, 1),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {task: {"accuracy": True, "margin": True} for task in tasks},
        "n-samples": {one.objective: {"original": len(one.rows), "effective": len(one.rows)} for one in of},
        "config": {"model": "seqdpo", "model_args": f"pretrained={of[0].model}"},
        "date": when.timestamp(),
        "task_hashes": hashes,
        "model_source": "seqdpo",
        "model_name": of[0].model,
        "model_name_sanitized": of[0].model,
    }


# Inspect


def _inspect_log(of: _Scored, when: datetime) -> dict[str, Any]:
    made = when.isoformat()
    n, name = len(of.rows), f"seqdpo/{of.model}"
    identity = _hash(f"{of.objective} {of.model} {made}")[:22]
    metrics = {key: of.mean(key) for key in ("accuracy", "margin")}
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": identity,
            "run_id": identity,
            "created": made,
            "task": of.objective,
            "task_id": identity,
            "dataset": {"name": of.objective, "samples": n, "sample_ids": [row["pair_id"] for row in of.rows]},
            "model": name,
            "config": {},
        },
        "plan": {"name": "plan", "steps": []},  # Inspect's readers of heads want one
        "results": {
            "total_samples": n,
            "completed_samples": n,
            "scores": [
                {"name": key, "scorer": key, "metrics": {"mean": {"name": "mean", "value": value}}}
                for key, value in metrics.items()
                if value is not None
            ],
        },
        "stats": {"started_at": made, "completed_at": made},
        "samples": [_inspect_sample(row) for row in of.rows],
    }


def _inspect_sample(row: Mapping[str, Any]) -> dict[str, Any]:
    """No model answered: what it prefers of the two responses is the score's answer."""
    prompt = row["prompt"] or []
    chat = all(message["role"] in _ROLES for message in prompt)
    preferred = {1.0: row["chosen"], 0.0: row["rejected"]}.get(row["accuracy"])
    known = {key: row[key] for key in ("accuracy", "margin") if row[key] is not None}
    return {
        "id": row["pair_id"],
        "epoch": 1,
        "input": prompt if chat and prompt else "\n\n".join(message["content"] for message in prompt),
        "target": row["chosen"],
        "choices": [row["chosen"], row["rejected"]],
        "scores": {key: {"value": value, "answer": preferred} for key, value in known.items()},
        "metadata": {key: value for key, value in row.items() if key.endswith("_logp")},
    }


def _stamp(when: datetime) -> str:
    return when.isoformat().replace(":", "-")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
