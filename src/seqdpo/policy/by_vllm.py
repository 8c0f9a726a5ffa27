"""What checkpoints answer by vLLM, through its public API: the base is loaded once, adapters come with the requests.

Source: vllm/entrypoints/llm.py, vllm/sampling_params.py and vllm/lora/ of vLLM 0.33.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seqdpo.errors import ConfigError, RunError
from seqdpo.policy.foreign import Adapter, Standing, read_adapter
from seqdpo.policy.generate import Answer, answer_of, end_ids
from seqdpo.policy.load import context_length, load_generation_config
from seqdpo.preferences.tokens import TokenIds
from seqdpo.study.keys import ModelKeys
from seqdpo.wording import listed, reason

#: What vLLM takes for --max-lora-rank.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
#: In which its kernels add an adapter.
DTYPES = ("float16", "bfloat16")
_INSTEAD = "Leave --engine out: transformers answers."


def can_serve(standing: Standing, adapter: Adapter) -> bool:
    """Whether an adapter is plain LoRA of one rank and scale on the base itself."""
    if standing.model is not None or standing.merged:
        return False
    uneven = adapter.config.get("rank_pattern") or adapter.config.get("alpha_pattern")  # older releases pass over them
    return not uneven and adapter.is_plain_lora and adapter.rank <= RANKS[-1]


def max_lora_rank(adapters: Sequence[Adapter]) -> int:
    """The least --max-lora-rank that all of them fit in."""
    return next(rank for rank in RANKS if rank >= max(adapter.rank for adapter in adapters))


class ByVllm:
    """Greedy answers by vLLM, to all prompts of a checkpoint at once."""

    def __init__(
        self,
        keys: ModelKeys,
        standings: Sequence[tuple[str, Standing]],
        eos_token_id: int | None,
        longest: int,
        limit: int,
    ) -> None:
        """`standings` are of all checkpoints that will be asked, with names; `longest` prompt and `limit` in tokens.

        Raises: ConfigError where vLLM is not installed, or cannot answer as one of them; RunError where it fails.
        """
        adapters = _adapters(keys, standings)
        vllm, request = _library()
        self.name = f"vllm {vllm.__version__}"
        self._requests = {
            adapter.folder: request(lora_name=f"adapter{i}", lora_int_id=i, lora_path=str(adapter.folder))
            for i, adapter in enumerate(adapters, start=1)
        }
        self._ends = end_ids(load_generation_config(keys), eos_token_id)
        self._greedy = vllm.SamplingParams(
            temperature=0.0, max_tokens=limit, stop_token_ids=sorted(self._ends), detokenize=False
        )
        with _failing():
            self._llm = vllm.LLM(
                keys.model_name_or_path,
                revision=keys.model_revision,
                tokenizer_revision=keys.model_revision,
                trust_remote_code=keys.trust_remote_code,
                dtype=keys.dtype,
                max_model_len=min(longest + limit, context_length(keys) or longest + limit),
                enable_lora=bool(adapters),
                **({"max_lora_rank": max_lora_rank(adapters)} if adapters else {}),
            )

    def answers(self, standing: Standing, prompts: Sequence[TokenIds]) -> list[Answer]:
        """One for each prompt, in their order. Raises: RunError where vLLM fails."""
        with _failing():
            outputs = self._llm.generate(
                [{"prompt_token_ids": prompt.tolist()} for prompt in prompts],
                self._greedy,
                use_tqdm=False,
                lora_request=None if standing.adapter is None else self._requests[standing.adapter],
            )
        return [answer_of([int(i) for i in output.outputs[0].token_ids], self._ends) for output in outputs]


def _adapters(keys: ModelKeys, standings: Sequence[tuple[str, Standing]]) -> list[Adapter]:
    """Of all checkpoints, each once."""
    if keys.dtype not in DTYPES:
        raise ConfigError(
            f"--engine vllm: dtype = {keys.dtype!r}, in which vLLM adds no adapters; expected 'bfloat16'. {_INSTEAD}"
        )
    found: dict[Path, Adapter] = {}
    refused = []
    for name, standing in standings:
        adapter = read_adapter(standing.adapter) if standing.adapter else None
        if adapter is not None and can_serve(standing, adapter):
            found[adapter.folder] = adapter
        elif standing != Standing():
            refused.append(name)
    if refused:
        raise ConfigError(
            f"--engine vllm: {listed(refused)} cannot be added to the base by vLLM; expected plain LoRA of one rank "
            f"(at most {RANKS[-1]}) and alpha on the base itself. {_INSTEAD}"
        )
    return list(found.values())


def _library() -> tuple[Any, Any]:
    """(vllm, its LoRARequest)"""
    try:
        import vllm
        from vllm.lora.request import LoRARequest
    except ImportError:
        raise ConfigError(
            f"--engine vllm: vllm is not installed; expected it. Install it (docs.vllm.ai), or: {_INSTEAD}"
        ) from None
    return vllm, LoRARequest


@contextmanager
def _failing() -> Iterator[None]:
    """Turns whatever vLLM says of its machine, the model or an adapter into one message."""
    try:
        yield
    except Exception as error:
        raise RunError(f"vLLM failed: {reason(error)} Its own lines are above. {_INSTEAD}") from error
