"""Several processes, each with a device and the whole model, at the same work: pairs are shared out, results summed.

Only where `join` was called. Elsewhere, also in a process of someone else's launch, nothing here does anything, and
torch's process groups are not touched.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqdpo.errors import RunError
from seqdpo.launched import Launch, launch
from seqdpo.policy.trees import TokenTree
from seqdpo.wording import first_line

#: The others wait while the first process reads data, hashes weights or analyses; a dead process is noticed at once.
LONGEST_WAIT = timedelta(days=7)


@cache
def join() -> None:
    """Waits until all processes of the run are there; nothing where this one was not launched with others."""
    if launch().size == 1:
        return
    import torch.distributed as dist

    backend = None
    if torch.cuda.is_available():
        torch.cuda.set_device(launch().local_rank)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend or "gloo", timeout=LONGEST_WAIT)


def leave() -> None:
    """Ends what `join` began."""
    if this_process().size > 1:
        import torch.distributed as dist

        dist.destroy_process_group()
    join.cache_clear()


def this_process() -> Launch:
    """This process among those that joined; the first and only one where none did."""
    return launch() if join.cache_info().currsize else Launch()


def from_first(value: Any) -> Any:
    """What the first process gives, in all of them."""
    if this_process().size == 1:
        return value
    import torch.distributed as dist

    box = [value]
    with _together():
        dist.broadcast_object_list(box, src=0)
    return box[0]


@contextmanager
def _together() -> Iterator[None]:
    """Around what all processes have to do at once.

    Raises: RunError if one of them has gone.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # of many kinds, by backend
        raise RunError(
            f"process {this_process().rank} of {this_process().size}: another has gone ({first_line(error)[:120]}); "
            "expected all of them to the end. Its own message, or what launched it, says why; run again to go on."
        ) from error


def own_share(trees: Sequence[TokenTree]) -> list[int]:
    """The indices, ascending, of the trees that are this process's; with the others' they are all."""
    return shares(trees, this_process().size)[this_process().rank]


def shares(trees: Sequence[TokenTree], size: int) -> list[list[int]]:
    """Indices of trees for each of so many processes: of about as many tokens, the same wherever it is worked out."""
    given: list[list[int]] = [[] for _ in range(size)]
    tokens = [0] * size
    for index in sorted(range(len(trees)), key=lambda i: -trees[i].n_tokens):
        lightest = tokens.index(min(tokens))
        given[lightest].append(index)
        tokens[lightest] += trees[index].n_tokens
    return [sorted(indices) for indices in given]


def summed_numbers(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum over all processes, in float64."""
    if this_process().size == 1:
        return values
    import torch.distributed as dist

    total = torch.from_numpy(values.copy())
    with _together():
        dist.all_reduce(total)
    summed: NDArray[np.float64] = total.numpy()
    return summed


def summed_gradients(gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
    """The sum of every gradient over all processes, in float32; None where no process has one.

    `like`: the parameters. One message for all, so that small matrices do not wait for each other.
    """
    if this_process().size == 1:
        return list(gradients)
    import torch.distributed as dist

    there = summed_numbers(np.array([gradient is not None for gradient in gradients], dtype=np.float64)) > 0
    zeros = (torch.zeros_like(p) if g is None else g for g, p in zip(gradients, like, strict=True))
    flat = torch.cat([tensor.flatten().float() for tensor in zeros])
    with _together():
        dist.all_reduce(flat)
    parts = flat.split([parameter.numel() for parameter in like])
    summed = [part.view_as(parameter).to(parameter.dtype) for part, parameter in zip(parts, like, strict=True)]
    return [one if some else None for one, some in zip(summed, there, strict=True)]


def draw_own_numbers(seed: int, step: int) -> None:
    """Sets torch's random numbers (LoRA dropout) of a process other than the first, before each step.

    The first one's go on from step to step, as those of a single process.
    """
    if not this_process().is_first:
        torch.manual_seed(int(np.random.SeedSequence([seed, step, this_process().rank]).generate_state(1)[0]))
