"""Answers by vLLM: its public API is called as its source has it, and what it says is what is written down.

vLLM itself needs a GPU and a torch of its own. In its place stands a module whose functions have the signatures of
vLLM 0.33 (entrypoints/llm.py, sampling_params.py, lora/request.py, engine/arg_utils.py) and that answers by a loop over
plain transformers and PEFT.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import seqdpo as package
from seqdpo.errors import ConfigError, RunError
from seqdpo.policy.by_vllm import can_serve, max_lora_rank
from seqdpo.policy.foreign import Adapter, Standing
from seqdpo.report.finished import read_run
from seqdpo.runner.generations import generate
from seqdpo.study.config import Study
from seqdpo.study.settings import LAB

N = 3
LIMIT = 12


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    base_model_name: str | None = None
    load_inplace: bool = False

    def __post_init__(self):
        assert self.lora_int_id >= 1
        assert self.lora_path


@dataclass(kw_only=True)
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    detokenize: bool = True


@dataclass
class EngineArgs:
    """Of what LLM hands on: only what is asked for here."""

    max_model_len: int
    enable_lora: bool = False
    max_lora_rank: int = 16
    max_loras: int = 1


class LLM:
    made: "list[LLM]" = []  # noqa: RUF012 - what the tests look at

    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
        **kwargs,
    ):
        self.model, self.dtype, self.arguments = model, dtype, EngineArgs(**kwargs)
        self.adapters = {}
        LLM.made.append(self)

    def generate(
        self,
        prompts: Sequence[dict],
        sampling_params: SamplingParams | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
        priority: int | None = None,
        tokenization_kwargs: dict | None = None,
        mm_processor_kwargs: dict | None = None,
    ):
        assert sampling_params.temperature == 0
        model = AutoModelForCausalLM.from_pretrained(self.model, dtype=getattr(torch, self.dtype)).eval()
        if lora_request is not None:
            known = self.adapters.setdefault(lora_request.lora_int_id, lora_request)
            assert known == lora_request  # an id is one adapter's
            config = json.loads(Path(lora_request.lora_path, "adapter_config.json").read_text())
            assert self.arguments.enable_lora
            assert config["r"] <= self.arguments.max_lora_rank
            model = PeftModel.from_pretrained(model, lora_request.lora_path).eval()
        return [self._answer(model, prompt["prompt_token_ids"], sampling_params) for prompt in prompts]

    def _answer(self, model, ids, sampling_params):
        """With its last token, the one that ends it."""
        assert len(ids) + 1 <= self.arguments.max_model_len
        assert all(type(i) is int for i in ids)
        text = list(ids)
        for _ in range(min(sampling_params.max_tokens, self.arguments.max_model_len - len(ids))):
            with torch.no_grad():
                text.append(int(model(torch.tensor([text]), use_cache=False).logits[0, -1].argmax()))
            if text[-1] in sampling_params.stop_token_ids:
                break
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(text[len(ids) :]))])


@pytest.fixture
def vllm(monkeypatch):
    monkeypatch.setattr(LLM, "made", [])
    monkeypatch.setattr("seqdpo.policy.by_vllm.DTYPES", ("float32",))  # so that no rounding decides what is likeliest
    library, request = ModuleType("vllm"), ModuleType("vllm.lora.request")
    library.__version__, library.LLM, library.SamplingParams = "0.33.0", LLM, SamplingParams
    request.LoRARequest = LoRARequest
    for name, module in (("vllm", library), ("vllm.lora", ModuleType("vllm.lora")), (request.__name__, request)):
        monkeypatch.setitem(sys.modules, name, module)
    return library


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("vllm")
    objectives = {name: {"format": "lab", "angle": angle, "n_pairs": 40} for name, angle in (("one", 0), ("two", 90))}
    given = {"objectives": objectives, "orders": [["one", "two"]], "placebo": 0, "seeds": [0, 1]}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("seqdpo.runner.base_logps.cache_dir", lambda: root / "cache")
        keys = LAB | given | {"mechanism_share": 0.01, "learning_rate": 3e-3, "output_dir": str(root / "run")}
        return package.run(Study.model_validate(keys))


def test_answers_are_those_of_transformers_and_say_who_gave_them(run, vllm, seqdpo):
    answers = {}
    for engine in ("transformers", "vllm"):
        code, output, _ = seqdpo("generate", run.folder, "-n", N, "--max-new-tokens", LIMIT, "--engine", engine)
        assert code == 0
        assert f"Greedy, by {engine} " in output
        assert f"by {engine} " in (run.folder / "report.html").read_text()
        answers[engine] = read_run(run.folder).generations
    assert len(answers["vllm"]) == 2 * N * 5  # two objectives; the base, and two stages of two seeds
    assert answers["vllm"].drop(["engine"]).equals(answers["transformers"].drop(["engine"]))
    assert set(answers["vllm"]["engine"].to_pylist()) == {"vllm 0.33.0"}
    assert len({tuple(answers["vllm"].filter(answers["vllm"]["checkpoint"].to_numpy() == name)["response"].to_pylist())
                for name in ("base", "one>two")}) == 2  # fmt: skip
    [llm] = LLM.made
    assert llm.arguments == EngineArgs(llm.arguments.max_model_len, enable_lora=True, max_lora_rank=16)
    assert sorted(llm.adapters) == [1, 2, 3, 4]


def test_a_model_is_not_asked_to_read_more_than_it_can(run, vllm, monkeypatch):
    nothing = SimpleNamespace(outputs=[SimpleNamespace(token_ids=())])
    monkeypatch.setattr(LLM, "_answer", lambda llm, model, ids, sampling_params: nothing)
    generate(run.folder, 1, max_new_tokens=10**6, engine="vllm")
    [llm] = LLM.made
    assert llm.arguments.max_model_len == 2048  # max_position_embeddings of the lab's model


def test_what_vllm_cannot_do_is_said_before_it_starts(run, vllm, monkeypatch, tmp_path, seqdpo):
    before = (run.folder / "generations.parquet").read_bytes()
    uneven = Adapter(tmp_path, {"r": 8, "rank_pattern": {"q_proj": 4}}, {"q.lora_A.weight": [8, 8]})
    with monkeypatch.context() as changed, pytest.raises(ConfigError, match=r"'one', 'one>two', .* to the base"):
        changed.setattr("seqdpo.policy.by_vllm.read_adapter", lambda folder: uneven)
        generate(run.folder, 1, engine="vllm")
    with (
        monkeypatch.context() as changed,
        pytest.raises(ConfigError, match="'float32', in which vLLM adds no"),
    ):
        changed.setattr("seqdpo.policy.by_vllm.DTYPES", ("bfloat16",))
        generate(run.folder, 1, engine="vllm")
    monkeypatch.setitem(sys.modules, "vllm", None)
    code, _, error = seqdpo("generate", run.folder, "--engine", "vllm")
    assert code == 2
    assert "vllm is not installed" in error
    assert LLM.made == []
    assert (run.folder / "generations.parquet").read_bytes() == before


def test_what_vllm_says_when_it_fails_ends_the_command_and_leaves_the_answers(run, vllm, monkeypatch):
    before = (run.folder / "generations.parquet").read_bytes()

    def fails(*prompts, **others):
        raise ValueError("No available memory for the cache blocks")

    monkeypatch.setattr(LLM, "generate", fails)
    with pytest.raises(RunError, match=r"No available memory.*transformers answers"):
        generate(run.folder, 1, engine="vllm")
    assert (run.folder / "generations.parquet").read_bytes() == before


def test_which_adapters_vllm_can_add_to_the_base(tmp_path):
    plain = Adapter(tmp_path, {"r": 8}, {"q.lora_A.weight": [8, 4], "q.lora_B.weight": [4, 8]})
    on_base = Standing(adapter=tmp_path)
    assert can_serve(on_base, plain)
    assert not can_serve(Standing(merged=(tmp_path,), adapter=tmp_path), plain)
    assert not can_serve(Standing(model=tmp_path, adapter=tmp_path), plain)
    assert not can_serve(on_base, Adapter(tmp_path, {"r": 513}, plain.shapes))
    assert not can_serve(on_base, Adapter(tmp_path, {"r": 8, "alpha_pattern": {"q": 4}}, plain.shapes))
    assert not can_serve(on_base, Adapter(tmp_path, {"r": 8}, plain.shapes | {"q.lora_magnitude_vector": [4]}))
    assert max_lora_rank([plain]) == 8
    assert max_lora_rank([plain, Adapter(tmp_path, {"r": 9}, {})]) == 16
