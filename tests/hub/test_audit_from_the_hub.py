"""Audits of adapters that lie on a hub: through the real client, and what it refuses."""

import json
import shutil
from itertools import count

import pytest
import torch
import upstream
from peft import LoraConfig, get_peft_model
from stub_hub import commit_of
from transformers import AutoModelForCausalLM

NUMBERS = count()


@pytest.fixture
def adapter(hub):
    """`adapter(fault)`: an adapter of the stand-in under a name of its own, which no cache has yet."""
    made = []

    def make(fault=None, pickled=False):
        number = next(NUMBERS)
        name = f"acme/adapter-{number}"
        folder = hub.root / "models" / name
        with torch.random.fork_rng():
            torch.manual_seed(number)
            base = AutoModelForCausalLM.from_pretrained(hub.root / "models" / upstream.LLAMA)
            policy = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
            for parameter in policy.parameters():
                parameter.data += 0.05 * parameter.requires_grad * torch.randn_like(parameter)
            policy.save_pretrained(folder)
        config = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": upstream.LLAMA}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        if pickled:
            (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        if fault:
            hub.faults[name] = fault
        made.append(folder)
        return name

    yield make
    for folder in made:
        shutil.rmtree(folder)


def audit(client, folder, *checkpoints, **options):
    (folder / "pairs.jsonl").write_text(
        "".join(
            json.dumps({"prompt": f"what is {i}? ", "chosen": "the answer", "rejected": "no"}) + "\n" for i in range(12)
        )
    )
    model = ["--model-name-or-path", upstream.LLAMA, "--objectives.helpful.format", "preference"]
    named = [part for checkpoint in checkpoints for part in ("--checkpoint", checkpoint)]
    objectives = ["--objectives.helpful.dataset_name", "pairs.jsonl", "--objectives.harmless.format", "preference"]
    objectives += ["--objectives.harmless.dataset_name", "pairs.jsonl"]
    return client(folder, "audit", *model, *objectives, *named, "--output-dir", "out", **options)


def test_two_adapters_of_a_hub_are_audited_and_then_again_without_it(hub, client, adapter, tmp_path):
    first, second = adapter(), adapter()
    named = (f"helpful={first}", f"helpful/harmless={second}")
    online = audit(client, tmp_path, *named)
    assert online.code == 0, online.errors
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["identity"]["model"] == f"{upstream.LLAMA}@{commit_of(upstream.LLAMA)}"
    assert [one["checkpoint"] for one in manifest["checkpoints"]] == ["helpful", "helpful>harmless"]
    scores = (tmp_path / "out" / "scores.parquet").read_bytes()
    shutil.rmtree(tmp_path / "out")
    asked = len(hub.asked)
    offline = audit(client, tmp_path, *named, offline=True)
    assert offline.code == 0, offline.errors
    assert len(hub.asked) == asked
    assert (tmp_path / "out" / "scores.parquet").read_bytes() == scores


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "hf auth login"),
        ("gated", "it is gated"),
        ("unauthorized", "hf auth login"),
        ("too many", "Wait some minutes"),
    ],
)
def test_an_adapter_that_the_hub_does_not_give_is_one_screen(hub, client, adapter, tmp_path, fault, message):
    ended = audit(client, tmp_path, f"helpful={adapter(fault)}")
    assert ended.code == 2
    assert message in ended.errors
    assert "Traceback" not in ended.errors
    assert len(ended.errors.splitlines()) <= 24
    assert not (tmp_path / "out").exists()


def test_pickled_weights_of_a_hub_are_never_fetched(hub, client, adapter, tmp_path):
    name = adapter(pickled=True)
    ended = audit(client, tmp_path, f"helpful={name}")
    assert ended.code == 2
    assert not [path for _, path in hub.asked if name in path and path.endswith(".bin")]
