"""Which causal language models of the installed transformers seqdpo can read, train and save: docs/models.md.

    python benchmarks/model_families.py            every family, each in a process of its own; half an hour
    python benchmarks/model_families.py llama rwkv these families only; the table keeps the others

It needs an operating system with fork (Linux, macOS).

Of each family a random tiny model is made from its configuration, saved, and loaded as a study loads it. It is then
scored, trained for two stages of a few steps in each adapter_mode, and every number is compared with one plain,
unpadded forward pass of transformers (and PEFT) for each sequence.
"""

import argparse
import json
import logging
import multiprocessing
import re
import resource
import signal
import tempfile
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import redirect_stdout
from inspect import signature
from io import StringIO
from multiprocessing.connection import Connection
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
CPU_SECONDS = 120  # a family's limit, whatever else the machine does
#: Read once, before a process is forked for each family.
LIBRARIES = ["peft", "seqdpo.measure.scores", "seqdpo.policy.trial", "seqdpo.training.stage"]
VOCABULARY = 200
N_PAIRS, N_TRAIN, LONGEST = 10, 16, 120

#: Sizes by the names that configurations give them; the first that fits is taken.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size n_embd d_model dim embedding_dim embed_dim attention_hidden_size": 64,
    "intermediate_size ffn_dim n_inner dff d_ff inner_dim ffn_hidden_size decoder_ffn_dim encoder_ffn_dim "
    "shared_intermediate_size shared_expert_intermediate_size mlp_dim block_ff_dim": 96,
    "moe_intermediate_size expert_ffn_hidden_size": 48,
    "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim attention_head_dim kv_channels d_kv global_head_dim": 16,
    "num_experts num_local_experts n_routed_experts moe_num_experts": 4,
    "num_experts_per_tok top_k moe_topk moe_k num_experts_per_token": 2,
    "n_group topk_group num_expert_group": 1,
    "q_lora_rank": 24,
    "kv_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "rotary_dim": 8,
    "mamba_d_state state_size ssm_state_size": 16,
    "mamba_chunk_size chunk_size": 32,
    "max_position_embeddings n_positions n_ctx max_seq_len seq_length context_length": 512,
    "sliding_window attention_chunk_size window_size local_attention attention_window_size": 16,
    "initializer_range init_std": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "image_size": 32,
    "patch_size": 16,
}
_ROPE = {"rope_theta": 10_000.0, "rope_type": "default"}
_PER_LAYER = {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 0}
_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2}
_INDEXER = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
}
_ZAMBA = {"attention_hidden_size": 128, "attention_head_dim": 32}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16}
#: Enough for layers of two kinds in turns, where a family has them.
LAYERS = "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers"
N_LAYERS, N_LAYERS_OF_KINDS = 2, 4
#: What a family needs beside, because its sizes depend on each other or have no default.
SPECIAL: dict[str, dict[str, Any]] = {
    "axk1": {"head_dim": 8},
    "axk2": {"head_dim": 8, "num_key_value_heads": 4},
    "bailing_hybrid": {"num_key_value_heads": 4},
    "bamba": _MAMBA,
    "blt": {"encoder_hash_byte_group_vocab": 100, "encoder_hash_byte_group_nb_functions": 1},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE | {"mrope_section": [4, 2, 2]}}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10_000.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 64},
    },
    "deepseek_v2": {"head_dim": 8, "num_key_value_heads": 4, **_EXPERTS},
    "deepseek_v3": {"head_dim": 8, "num_key_value_heads": 4},
    "dots1": {"num_key_value_heads": 4, "n_shared_experts": 1, **_EXPERTS},
    "dots3_note": {"text_config": {"num_key_value_heads": 4}},
    "dots3_note_text": {"num_key_value_heads": 4},
    "gemma3n_text": {"num_hidden_layers": 5, "activation_sparsity_pattern": [0.0] * 5, "laurel_rank": 8, **_PER_LAYER},
    "gemma4": {"text_config": _PER_LAYER},
    "gemma4_text": _PER_LAYER,
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention"] * 2, **_MAMBA},
    "hunyuan_v1_dense": {"head_dim": 16, "rope_parameters": _ROPE},
    "hunyuan_v1_moe": {"head_dim": 16, "rope_parameters": _ROPE},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "num_hidden_layers": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "state_size": 16, "n_groups": 2},
    "ministral": {"head_dim": 16, "rope_parameters": _ROPE},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp": {"text_config": _INDEXER},
    "qwen4_exp_text": _INDEXER,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "is_decoder": True,
        "axial_pos_shape": [16, 32],
        "axial_pos_embds_dim": [32, 32],
        "feed_forward_size": 96,
    },
    "xlm": {"emb_dim": 64},
    "xlstm": {"num_blocks": 2},
    "zamba": {"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 2, "n_mamba_heads": 2, **_ZAMBA},
    "zamba2": {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "num_hidden_layers": 4, **_ZAMBA},
    "zaya": {"num_experts_per_tok": 1},
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("families", nargs="*")
    arguments.add_argument("--processes", type=int, default=2)
    given = arguments.parse_args()
    names = given.families or families()
    multiprocessing.set_start_method("forkserver")
    multiprocessing.set_forkserver_preload(LIBRARIES)
    with ThreadPoolExecutor(given.processes) as pool:
        rows = {one["family"]: one for one in earlier() if given.families}
        for done in as_completed([pool.submit(in_a_process, name) for name in names]):
            found = done.result()
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
    ours, its = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=_send_row, args=(family, its))
    process.start()
    its.close()
    try:
        found: dict[str, Any] = ours.recv()
    except EOFError:
        process.join()
        return {"family": family, "outcome": "failed", "words": _ended(process.exitcode)}
    process.join()
    return found


def _send_row(family: str, where: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))  # a signal at the first
    where.send(row(family))


def _ended(exitcode: int | None) -> str:
    if exitcode == -signal.SIGXCPU:
        return f"not done after {CPU_SECONDS} s of the processor"
    return f"the process ended with {exitcode}"


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
    in_turns = len(set(written.get("layer_types") or ())) > 1
    for names, value in {**SIZES, LAYERS: N_LAYERS_OF_KINDS if in_turns else N_LAYERS}.items():
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
    from seqdpo.training.pairs import TrainingPairs
    from seqdpo.training.stage import train_stage

    parent = None
    for stage in (1, 2):
        tokens = made_up(N_TRAIN, stage)
        reference = pair_logps(base, tokens, 300)
        names = [str(number) for number in range(len(tokens))]
        training = TrainingPairs(names, tokens, reference.chosen, reference.rejected)
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
    run = f"{len(rows)} of {len(families())} families were run with {versions}: {counts}."
    lines = [run, "", *_table(RIGHT, rows, _right)]
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
