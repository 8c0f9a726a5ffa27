"""Matrix products with frozen weights."""

from collections.abc import Callable

import torch
from torch import Tensor


def _onednn() -> Callable[..., Tensor] | None:
    """oneDNN's product, which torch's own compiler uses for linear layers; None where torch's BLAS is as good.

    That is MKL in torch's builds: the faster one on Intel's CPUs, and the slower one on AMD's with AVX-512, by up to
    1.6 times (docs/performance.md).
    """
    if not torch.backends.mkldnn.is_available() or "Intel" in str(torch.cpu.get_capabilities().get("cpu_name")):
        return None
    found: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise
    return found


_onednn_product = _onednn()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight' + bias for x (n, n_in) and weight (n_out, n_in), which may be a transposed view; no autograd.

    In float32 torch takes these to BLAS; in bfloat16 it takes them to oneDNN itself.
    """
    if _onednn_product is not None and x.dtype == torch.float32 and x.device.type == "cpu":
        return _onednn_product(x, weight, bias, "none", [], "")
    return torch.nn.functional.linear(x, weight, bias)
