"""Matrix products with frozen weights."""

import torch
from torch import Tensor

#: oneDNN's product, which torch's own compiler uses for linear layers.
onednn = torch.ops.mkldnn._linear_pointwise if torch.backends.mkldnn.is_available() else None


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight' + bias for x (n, n_in) and weight (n_out, n_in), which may be a transposed view; no autograd.

    In float32 torch takes these to BLAS; on CPUs with AVX-512 oneDNN's kernel is up to 1.6 times as fast (see
    docs/performance.md). In bfloat16 torch takes them to oneDNN itself.
    """
    if onednn is not None and x.dtype == torch.float32 and x.device.type == "cpu":
        result: Tensor = onednn(x, weight, bias, "none", [], "")
        return result
    return torch.nn.functional.linear(x, weight, bias)
