"""What a policy answers: greedy decoding by transformers' own generate."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import transformers
from torch import nn
from transformers import GenerationConfig

from seqdpo.policy.attention import own_attention
from seqdpo.policy.foreign import Standing, foreign_policy
from seqdpo.policy.load import load_model
from seqdpo.policy.logps import base_of
from seqdpo.preferences.tokens import TokenIds
from seqdpo.study.keys import ModelKeys


class Answer(NamedTuple):
    """The tokens that follow a prompt, without the one that ends them."""

    ids: list[int]
    ended: bool  # False: cut off at the limit


class Answering(Protocol):
    """What lets checkpoints answer."""

    name: str  # of the engine, with its version

    def answers(self, standing: Standing, prompts: Sequence[TokenIds]) -> list[Answer]:
        """The answers of a checkpoint, in the order of the prompts."""


class ByTransformers:
    """Greedy answers by transformers, one prompt at a time, so that none depends on what it is read beside."""

    name = f"transformers {transformers.__version__}"

    def __init__(self, keys: ModelKeys, eos_token_id: int | None, limit: int) -> None:
        """`limit` of an answer in tokens."""
        self._keys, self._eos_token_id, self._limit = keys, eos_token_id, limit
        self._base = load_model(keys)

    def answers(self, standing: Standing, prompts: Sequence[TokenIds]) -> list[Answer]:
        with foreign_policy(self._base, standing, self._keys) as policy:
            ends = end_ids(base_of(policy).generation_config, self._eos_token_id)
            return [answer(policy, prompt, self._limit, ends) for prompt in prompts]


def answer(policy: nn.Module, prompt: TokenIds, max_new_tokens: int, end_ids: set[int]) -> Answer:
    """The likeliest next token, one after the other; of the generation settings that come with a model none is used."""
    base = base_of(policy)
    ids = torch.as_tensor(prompt, dtype=torch.long, device=base.device)[None]
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(end_ids),
        pad_token_id=min(end_ids),
    )
    with torch.inference_mode(), own_attention(base):
        text = base.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=greedy)
    return answer_of(text[0, ids.shape[1] :].tolist(), end_ids)


def answer_of(new: list[int], end_ids: set[int]) -> Answer:
    """Of the tokens that were made, the last one of which may be the one that ends them."""
    ended = bool(new) and new[-1] in end_ids
    return Answer(new[:-1] if ended else new, ended)


def end_ids(settings: GenerationConfig, eos_token_id: int | None) -> set[int]:
    """The tokens that end a response: the tokenizer's, and those of the model's generation settings."""
    known = settings.eos_token_id
    own = known if isinstance(known, list) else [known]
    return {one for one in (eos_token_id, *own) if one is not None}
