"""Adapters that were trained apart, merged into one: on delta W, and cut back to a rank.

On the factors it would be something else: (B1 + B2)(A1 + A2) has products of one adapter's B with the other's A.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor

from seqdpo.policy.adapters import WEIGHTS_FILE, write_adapter

#: (n_adapters, n_out, n_in) float32, the share that is kept, and a generator -> (n_out, n_in).
Merge = Callable[[Tensor, float, torch.Generator], Tensor]


def linear(deltas: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """The mean. Source: rewarded soups (Rame et al. 2023, arXiv 2306.04488), with equal weights."""
    return deltas.mean(dim=0)


def ties(deltas: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Of each adapter the share `density` of its largest entries; for each entry the sign with the larger sum; the mean
    over those of that sign. Source: Yadav et al. 2023 (arXiv 2306.01708)."""
    flat = deltas.abs().flatten(1)
    n_kept = max(1, round(density * flat.shape[1]))
    least = flat.kthvalue(flat.shape[1] - n_kept + 1, dim=1).values
    trimmed = torch.where(deltas.abs() >= least[:, None, None], deltas, 0.0)
    elected = trimmed.sum(dim=0).sign()
    agreeing = (trimmed.sign() == elected) & (trimmed != 0)
    return (trimmed * agreeing).sum(dim=0) / agreeing.sum(dim=0).clamp(min=1)


def dare(deltas: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Every entry of each adapter is kept with probability `density`, and divided by it; then the mean.

    Source: Yu et al. 2023 (arXiv 2311.03099).
    """
    kept = torch.rand(deltas.shape, generator=generator) < density
    return (deltas * kept / density).mean(dim=0)


MERGES: dict[str, Merge] = {"linear": linear, "ties": ties, "dare": dare}


def save_merged(
    adapters: Sequence[Path], kind: str, density: float, rank: int | None, seed: int, folder: Path
) -> float:
    """Writes the merge of adapters of one base as an adapter of this rank; returns the share of it that was cut off.

    The rank is the sum of the adapters' own unless it is given, for which `linear` is exact but for rounding. The share
    is 1 - |kept|^2 / |merged|^2 over all modules, Frobenius norms. Needs the dense delta W of one module at a time.
    """
    configs = [LoraConfig.from_pretrained(str(path)) for path in adapters]
    factors = [load_file(path / WEIGHTS_FILE) for path in adapters]
    rank = rank or sum(config.r for config in configs)
    generator = torch.Generator().manual_seed(seed)
    tensors, kept, whole = {}, 0.0, 0.0
    for name_a in (name for name in factors[0] if "lora_A" in name):
        name_b = name_a.replace("lora_A", "lora_B")
        deltas = torch.stack(
            [
                config.lora_alpha / config.r * of[name_b].float() @ of[name_a].float()
                for config, of in zip(configs, factors, strict=True)
            ]
        )
        left, values, right = torch.linalg.svd(MERGES[kind](deltas, density, generator), full_matrices=False)
        root = _padded(values, rank).sqrt()
        tensors[name_a] = _padded(right.T, rank).T * root[:, None]
        tensors[name_b] = _padded(left, rank) * root
        kept += values[:rank].double().square().sum().item()
        whole += values.double().square().sum().item()
    config = configs[0]
    config.r = config.lora_alpha = rank
    write_adapter(config, tensors, folder)
    return 1 - kept / whole if whole else 0.0


def _padded(values: Tensor, rank: int) -> Tensor:
    """The first `rank` of the last dimension; zeros where there are fewer."""
    missing = max(rank - values.shape[-1], 0)
    return torch.nn.functional.pad(values[..., :rank], (0, missing))
