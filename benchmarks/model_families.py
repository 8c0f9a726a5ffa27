"""Which causal language models of the installed transformers seqdpo can read, train and save: docs/models.md.

    python benchmarks/model_families.py            every family, each in a process of its own; half an hour
    python benchmarks/model_families.py llama rwkv these families only; the table keeps the others

Of each family a random tiny model is made from its configuration, saved, and loaded as a study loads it. It is then
scored, trained for two stages of a few steps in each adapter_mode, and every number is compared with one plain,
unpadded forward pass of transformers (and PEFT) for each sequence.
"""

import argparse
import json
import logging
import re
import subprocess
import sys
import tempfile
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from inspect import signature
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from tables import report

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/models.md"
RESULT = ROOT / "benchmarks/results/model_families.json"
BEGIN, END = "<!-- made by benchmarks/model_families.py -->", "<!-- end -->"
MODES = ("continue", "new_on_merged", "stack")
COLUMNS = ("family", "architecture", "outcome", "engine", "scored", *MODES, "lora_target_modules", "notes", "words")
SECONDS_A_FAMILY = 300
VOCABULARY = 200
N_PAIRS, N_TRAIN, LONGEST = 10, 16, 120

#: Sizes by the names that configurations give them; the first that fits is taken.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size n_embd d_model dim embedding_dim embed_dim attention_hidden_size": 64,
    "intermediate_size ffn_dim n_inner dff d_ff inner_dim ffn_hidden_size decoder_ffn_dim encoder_ffn_dim "
    "shared_intermediate_size shared_expert_intermediate_size mlp_dim block_ff_dim": 96,
    "moe_intermediate_size expert_ffn_hidden_size": 48,
    "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers": 4,
    "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim attention_head_dim kv_channels d_kv global_head_dim": 16,
    "num_experts num_local_experts n_routed_experts moe_num_experts": 4,
    "num_experts_per_tok top_k moe_topk moe_k num_experts_per_token": 2,
    "n_group topk_group": 1,
    "q_lora_rank": 24,
    "kv_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "max_position_embeddings n_positions n_ctx max_seq_len seq_length context_length": 512,
    "sliding_window attention_chunk_size window_size local_attention attention_window_size": 16,
    "initializer_range init_std": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "image_size": 32,
    "patch_size": 16,
}
#: What a family needs beside, because its sizes depend on each other.
_ROPE = {"rope_theta": 10_000.0, "rope_type": "default"}
_PER_LAYER = {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 0}


SPECIAL: dict[str, dict[str, Any]] = {
    "blt": {"encoder_hash_byte_group_vocab": 100, "encoder_hash_byte_group_nb_functions": 1},
    "dbrx": {"ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 64}},
    **{name: {"head_dim": 8} for name in ("axk1", "axk2", "deepseek_v2", "deepseek_v3")},
    "dots3_note": {"num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "gemma3n_text": {"num_hidden_layers": 5, "activation_sparsity_pattern": [0.0] * 5, "laurel_rank": 8, **_PER_LAYER},
    "gemma4": {"text_config": _PER_LAYER},
    "gemma4_text": _PER_LAYER,
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]]},
    "hunyuan_v1_dense": {"rope_parameters": _ROPE},
    "hunyuan_v1_moe": {"rope_parameters": _ROPE},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "state_size": 16, "n_groups": 2},
    "ministral": {"rope_parameters": _ROPE},
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {"is_decoder": True},
    "xlm": {"emb_dim": 64},
    "zamba": {"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 2, "n_mamba_heads": 2},
    "zamba2": {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "num_hidden_layers": 4},
    "zaya": {"num_experts_per_tok": 1},
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("families", nargs="*")
    arguments.add_argument("--one", help=argparse.SUPPRESS)
    arguments.add_argument("--processes", type=int, default=2)
    given = arguments.parse_args()
    if given.one:
        print(json.dumps(row(given.one)))
        return
    names = given.families or families()
    with ThreadPoolExecutor(given.processes) as pool:
        rows = {one["family"]: one for one in earlier() if given.families}
        for found in pool.map(in_a_process, names):
            print(line(found), flush=True)
            rows[found["family"]] = found
            write(list(rows.values()))


def earlier() -> list[dict[str, Any]]:
    """The rows of the last run."""
    return json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.is_file() else []


def families() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def in_a_process(family: str) -> dict[str, Any]:
    """A crash is a row, too."""
    command = [sys.executable, __file__, "--one", family]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_A_FAMILY, check=False)
    except subprocess.TimeoutExpired:
        return {"family": family, "outcome": "failed", "words": f"not done after {SECONDS_A_FAMILY} s"}
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return {"family": family, "outcome": "failed", "words": f"exit {done.returncode}: {done.stderr[-300:]}"}
    return found


def row(family: str) -> dict[str, Any]:
    """What became of one family."""
    import torch
    import transformers

    from seqdpo.errors import SeqdpoError

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"family": family}
    with tempfile.TemporaryDirectory() as folder:
        try:
            found["architecture"] = make_model(family, Path(folder, "model"))
        except Exception as error:
            return found | {"outcome": "not built", "words": _words(error), "traceback": traceback.format_exc()[-1500:]}
        try:
            return found | tried(Path(folder))
        except SeqdpoError as error:
            return found | {"outcome": "refused", "words": str(error).replace(folder, "")}
        except Exception as error:
            return found | {"outcome": "failed", "words": _words(error), "traceback": traceback.format_exc()[-1500:]}


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def make_model(family: str, folder: Path) -> str:
    """Saves a random tiny model of the family; returns its class's name."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[family](**small(CONFIG_MAPPING[family], SPECIAL.get(family, {})))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    size = sum(parameter.numel() for parameter in model.parameters())
    if size > 30e6:
        big = sorted(model.named_parameters(), key=lambda one: -one[1].numel())[:3]
        raise ValueError(f"{size:,} parameters: {[(name, tuple(p.shape)) for name, p in big]}")
    with torch.no_grad():
        options = {"use_cache": False} if "use_cache" in signature(model.forward).parameters else {}
        model(input_ids=torch.arange(3, 30)[None], **options)  # sizes may not go together
    model.save_pretrained(folder)
    return type(model).__name__


def small(kind: Any, special: dict[str, Any]) -> dict[str, Any]:
    """Arguments that make a tiny configuration: the sizes it has by other names, those of its parts the same way."""
    default = kind()
    written, parts = default.to_dict(), default.sub_configs
    keys: dict[str, Any] = {}
    for names, value in SIZES.items():
        for name in names.split():
            if isinstance(written.get(name), int | float):
                keys[name] = value
    for name in parts:
        if isinstance(written.get(name), dict):
            made = type(getattr(default, name))
            keys[name] = made(**small(made, special.get(name, {})))
    return keys | {name: value for name, value in special.items() if name not in parts}


def tried(folder: Path) -> dict[str, Any]:
    """Raises: SeqdpoError where it is refused."""
    from seqdpo.measure.scores import pair_logps
    from seqdpo.policy.engine import choose_engine
    from seqdpo.policy.load import count_parameters, load_model
    from seqdpo.policy.trial import try_adapter
    from seqdpo.study.config import Study

    keys = {
        "model_name_or_path": str(folder / "model"),
        "lora_r": 2,
        "lora_alpha": 4,
        "learning_rate": 1e-2,
        "objectives": {"one": {"format": "lab"}},
        "output_dir": str(folder / "out"),
    }
    named = names_to_set(Study.model_validate(keys))
    studies = {mode: Study.model_validate(keys | named | {"adapter_mode": mode}) for mode in MODES}
    study = studies["continue"]
    parameters = count_parameters(study)
    base = load_model(study)
    pairs = made_up(N_PAIRS, 1)
    engine = choose_engine(base, LONGEST)
    scores = pair_logps(base, pairs, 200)
    found = {"engine": engine, "scored": largest(scores, plain(folder / "model", None, pairs))}
    notes: dict[str, None] = {}
    for mode, one in studies.items():
        trial = try_adapter(base, one, one)
        notes |= dict.fromkeys(trial.notes)
        found[mode] = trained(base, one, folder, pairs)
    right = all(found[name] <= 1e-4 for name in ("scored", *MODES))
    return found | {
        "outcome": "right" if right else "wrong",
        "trainable": parameters.trainable,
        "lora_target_modules": study.lora_target_modules,
        "notes": list(notes),
    }


def names_to_set(study: Any) -> dict[str, Any]:
    """The lora_target_modules that a refusal of all-linear says to set; nothing where it is not refused."""
    from seqdpo.errors import ConfigError
    from seqdpo.policy.load import count_parameters

    try:
        count_parameters(study)
    except ConfigError as error:
        match = re.search(r"Set lora_target_modules: \[(.+)\]", str(error))
        if match is None:
            raise
        return {"lora_target_modules": match[1].split(", ")}
    return {}


def made_up(n: int, seed: int) -> list[Any]:
    """Pairs of 3 to 120 tokens."""
    from seqdpo.preferences.tokens import PairTokens

    generator = np.random.default_rng(seed)

    def ids(longest: int) -> Any:
        return generator.integers(3, VOCABULARY, generator.integers(2, longest)).astype(np.int32)

    return [PairTokens(ids(80), ids(40), ids(40), truncated=False) for _ in range(n)]


def trained(base: Any, study: Any, folder: Path, pairs: list[Any]) -> float:
    """Two stages of a few steps; the largest difference of the second's scores from PEFT's on a plain model."""
    from seqdpo.measure.scores import pair_logps
    from seqdpo.policy.adapters import loaded_adapter, save_adapter, trainable_policy
    from seqdpo.training.loss import reference_offsets
    from seqdpo.training.placebo import TrainingPairs
    from seqdpo.training.stage import train_stage

    parent = None
    for stage in (1, 2):
        tokens = made_up(N_TRAIN, stage)
        reference = pair_logps(base, tokens, 300)
        names = [str(number) for number in range(len(tokens))]
        training = TrainingPairs(names, tokens, reference_offsets(reference.chosen, reference.rejected, study.beta))
        adapter = folder / f"{study.adapter_mode}{stage}"
        with trainable_policy(base, study, parent, seed=stage) as policy:
            train_stage(policy, training, study, stage, lambda step: None)
            save_adapter(policy, study, parent, adapter)
        parent = adapter
    with loaded_adapter(base, parent) as policy:
        scores = pair_logps(policy, pairs, 200)
    return largest(scores, plain(folder / "model", parent, pairs))


def plain(model: Path, adapter: Path | None, pairs: list[Any]) -> np.ndarray:
    """(2, n_pairs) by transformers and PEFT alone, one unpadded pass a sequence."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(model).eval()
    options = {"use_cache": False} if "use_cache" in signature(policy.forward).parameters else {}
    if adapter is not None:
        policy = PeftModel.from_pretrained(policy, str(adapter)).eval()
    sums = []
    for name in ("chosen", "rejected"):
        for pair in pairs:
            ids = torch.tensor(np.concatenate([pair.prompt, getattr(pair, name)]), dtype=torch.long)
            with torch.no_grad():
                logps = policy(input_ids=ids[None], **options).logits[0].float().log_softmax(dim=1)
            n = len(pair.prompt)
            sums.append(logps[n - 1 : -1].gather(1, ids[n:, None]).sum().item())
    return np.array(sums).reshape(2, -1)


def largest(scores: Any, expected: np.ndarray) -> float:
    return float(np.max(np.abs(np.stack(scores) - expected) / np.abs(expected)))


def line(found: dict[str, Any]) -> str:
    numbers = " ".join(f"{found[name]:.0e}" for name in ("scored", *MODES) if name in found)
    return " | ".join([found["family"], found["outcome"], found.get("engine", ""), numbers, found.get("words", "")])


def write(rows: list[dict[str, Any]]) -> None:
    """The JSON, and the table within docs/models.md."""
    rows = sorted(rows, key=lambda one: one["family"])
    notes = "Random tiny models, float32; differences are relative to the log-probability of a response."
    with redirect_stdout(StringIO()):  # the page has the table
        report("model_families", [{name: one.get(name) for name in COLUMNS} for one in rows], notes)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{page(rows)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def page(rows: list[dict[str, Any]]) -> str:
    """The generated part of docs/models.md."""
    import peft
    import torch
    import transformers

    outcomes = [one["outcome"] for one in rows]
    counts = ", ".join(f"{outcomes.count(name)} {name}" for name in sorted(set(outcomes)))
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
    lines = [f"{len(rows)} families with {versions}: {counts}.", "", *_table(RIGHT, rows, _right)]
    return "\n".join([*lines, "", *_table(OTHERS, [one for one in rows if one["outcome"] != "right"], _other)])


RIGHT = ("family", "read by", "scores differ by", *MODES, "lora_target_modules")
OTHERS = ("family", "outcome", "words")


def _table(header: tuple[str, ...], rows: list[dict[str, Any]], cells: Any) -> list[str]:
    body = [f"| {' | '.join(cells(one))} |" for one in rows if cells is _other or one["outcome"] == "right"]
    return [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *body]


def _right(one: dict[str, Any]) -> list[str]:
    targets = one["lora_target_modules"]
    left_out = " *" if any("leaves out" in note for note in one["notes"]) else ""
    return [
        f"`{one['family']}`",
        one["engine"].partition(":")[0].partition(" (")[0],
        *(f"{one[name]:.0e}" for name in ("scored", *MODES)),
        (targets if isinstance(targets, str) else ", ".join(targets)) + left_out,
    ]


def _other(one: dict[str, Any]) -> list[str]:
    words = " ".join(one["words"].split()).replace("|", "\\|").replace("'/model'", "'model'")
    return [f"`{one['family']}`", one["outcome"], words[:400]]


if __name__ == "__main__":
    main()
