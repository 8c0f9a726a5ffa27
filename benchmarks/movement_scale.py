"""Movement of one adapter pair of the Llama-3.1-8B shape: `python benchmarks/movement_scale.py`.

Random LoRA factors of rank 32 on all seven linear layers of 32 layers, 83,886,080 numbers an adapter, written to a
temporary folder; the time and peak memory are those of reading and measuring them.
"""

import json
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from tables import report

from seqdpo.measure.movement import movement_table

LAYERS, RANK = 32, 32
#: module -> its outputs and inputs
SHAPES = {
    **{f"self_attn.{name}": (size, 4096) for name, size in (("q_proj", 4096), ("k_proj", 1024), ("v_proj", 1024))},
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
}


def main() -> None:
    with TemporaryDirectory() as folder:
        first, second = (_write(Path(folder) / name, seed) for seed, name in enumerate(("first", "second")))
        began = time.perf_counter()
        table = movement_table(first, second, {})
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row = {"modules": table.num_rows - 1, "rank": RANK, "seconds": seconds, "peak GiB": peak}
    report("movement_scale", [row], "Movement between two random adapters of the Llama-3.1-8B shape.")


def _write(folder: Path, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(LAYERS):
        for name, (d_out, d_in) in SHAPES.items():
            prefix = f"base_model.model.model.layers.{layer}.{name}.lora_"
            tensors[f"{prefix}A.weight"] = torch.randn(RANK, d_in, generator=generator)
            tensors[f"{prefix}B.weight"] = torch.randn(d_out, RANK, generator=generator)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 2 * RANK}))
    return folder


if __name__ == "__main__":
    main()
