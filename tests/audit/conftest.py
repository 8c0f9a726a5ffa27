"""Checkpoints as others' trainers leave them, of the tiny model; and what plain PEFT and transformers say of pairs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from audited import N_PAIRS, OBJECTIVES
from seqdpo.runner.audit import run_audit
from seqdpo.runner.board import PlainBoard
from seqdpo.runner.folder import RunFolder
from seqdpo.study.file import audit_from


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """helpful.jsonl and harmless.jsonl in TRL's conversational format."""
    folder = tmp_path_factory.mktemp("pairs")
    for name in OBJECTIVES:
        rows = [
            {
                "prompt": [{"role": "user", "content": f"What is the {name} answer {i}?"}],
                "chosen": [{"role": "assistant", "content": "the answer " * (1 + i % 3) + name}],
                "rejected": [{"role": "assistant", "content": "ask the model " * (1 + i % 4)}],
            }
            for i in range(N_PAIRS)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def make_adapter(tiny_model_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """`make_adapter("a", r=8, use_dora=True)`: PEFT's own save of an adapter whose weights were moved at random."""

    def make(name: str, base: Path | None = None, scale: float = 0.1, **config: Any) -> Path:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        keys = {"task_type": "CAUSAL_LM", "target_modules": "all-linear", "r": 4, "lora_alpha": 8} | config
        with torch.random.fork_rng():
            torch.manual_seed(sum(map(ord, name)))
            model = get_peft_model(AutoModelForCausalLM.from_pretrained(base or tiny_model_folder), LoraConfig(**keys))
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter += scale * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def merge_into(tiny_model_folder: Path, tmp_path: Path) -> Callable[[Path, str], Path]:
    """`merge_into(adapter, "merged")`: the model as a user merges and saves it before the next stage."""

    def merge(adapter: Path, name: str) -> Path:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
        PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().save_pretrained(tmp_path / name)
        for file in tiny_model_folder.glob("token*"):
            shutil.copy(file, tmp_path / name)
        return tmp_path / name

    return merge


@pytest.fixture
def audit_values(tiny_model_folder: Path, pairs_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """All keys of an audit but `checkpoints`."""
    objectives = {
        name: {"format": "preference", "dataset_name": str(pairs_folder / f"{name}.jsonl")} for name in OBJECTIVES
    }
    return {
        "model_name_or_path": str(tiny_model_folder),
        "objectives": objectives,
        "max_length": 256,
        "output_dir": str(tmp_path / "run"),
    }


@pytest.fixture
def audit(audit_values: dict[str, Any], base_logps_cache: Path, console: Any) -> Callable[..., RunFolder]:
    """`audit({"helpful": path}, dtype="bfloat16")` runs it and gives its folder."""

    def run(checkpoints: dict[str, Any], **keys: Any) -> RunFolder:
        values = audit_values | keys | {"checkpoints": {name: _plain(one) for name, one in checkpoints.items()}}
        return run_audit(audit_from(values, "audit.yaml"), PlainBoard(console))

    return run


@pytest.fixture
def console() -> Any:
    import io

    from seqdpo.screen import Screen

    return Screen(file=io.StringIO(), width=80)


def _plain(source: Any) -> Any:
    return str(source) if isinstance(source, Path) else source
