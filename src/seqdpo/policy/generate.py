"""What a policy answers: greedy decoding by transformers' own generate."""

from typing import NamedTuple

import torch
from torch import nn
from transformers import GenerationConfig

from seqdpo.policy.attention import own_attention
from seqdpo.policy.logps import base_of
from seqdpo.preferences.tokens import TokenIds


class Answer(NamedTuple):
    """The tokens that follow a prompt, without the one that ends them."""

    ids: list[int]
    ended: bool  # False: cut off at the limit


def answer(policy: nn.Module, prompt: TokenIds, max_new_tokens: int, end_ids: set[int]) -> Answer:
    """The likeliest next token, one after the other; of the generation settings that come with a model none is used.

    One prompt at a time, so that no answer depends on what it is read beside.
    """
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
    new = text[0, ids.shape[1] :].tolist()
    ended = bool(new) and new[-1] in end_ids
    return Answer(new[:-1] if ended else new, ended)


def end_ids(model: nn.Module, eos_token_id: int | None) -> set[int]:
    """The tokens that end a response: the tokenizer's, and those of the model's generation settings."""
    known = base_of(model).generation_config.eos_token_id
    own = known if isinstance(known, list) else [known]
    return {one for one in (eos_token_id, *own) if one is not None}
