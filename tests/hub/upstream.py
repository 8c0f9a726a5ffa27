"""Tiny stand-ins for the model and the data sets of the study, in the layouts of their repositories on the hub."""

import gzip
import json

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
#: As Llama 3.1's own, without its tools: a system turn with two dates, and the headers.
LLAMA_TEMPLATE = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
SPECIAL_TOKENS = [
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|finetune_right_pad_id|>",
]
SAMPLE = (
    "system user assistant Cutting Knowledge Date: December 2023 Today Date: 26 Jul 2024 what is the answer to " * 9
)
N_TRAIN, N_TEST = 16, 8


def write_llama(folder):
    """Two layers of random weights, a tokenizer that begins with BOS, and the template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([SAMPLE], trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        chat_template=LLAMA_TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=131_072,
        rope_theta=500_000.0,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def write_data_sets(root):
    """All four, below `root`, by their names on the hub."""
    _hh_rlhf(root / "Anthropic" / "hh-rlhf")
    _helpsteer2(root / "nvidia" / "HelpSteer2")
    _pku_saferlhf(root / "PKU-Alignment" / "PKU-SafeRLHF")
    _ultrafeedback(root / "openbmb" / "UltraFeedback")


def _hh_rlhf(folder):
    _write(folder / "README.md", "---\nlicense: mit\ntags:\n- human-feedback\n---\n# HH-RLHF\n")
    for subset in ("helpful-base", "harmless-base", "helpful-online", "helpful-rejection-sampled"):
        for split, n in (("train", N_TRAIN), ("test", N_TEST)):
            rows = [_dialogue(f"{subset} {split} {i}") for i in range(n)]
            _write_lines(folder / subset / f"{split}.jsonl.gz", rows)
    _write_lines(folder / "red-team-attempts" / "red_team_attempts.jsonl.gz", [{"transcript": "", "rating": 4.0}])


def _dialogue(name):
    asked = f"\n\nHuman: what is {name}?\n\nAssistant: "
    return {"chosen": f"{asked}the answer to {name}", "rejected": f"{asked}no"}


def _helpsteer2(folder):
    _write(folder / "README.md", "---\nlicense: cc-by-4.0\nlanguage:\n- en\npretty_name: HelpSteer2\n---\n")
    for split, n in (("train", N_TRAIN), ("validation", N_TEST)):
        rows = []
        for i in range(n):
            for k, response in enumerate(("the answer", "no")):
                ratings = {"helpfulness": 4 - k, "correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 2 - k}
                rows.append({"prompt": f"what is {split} {i}?", "response": f"{response} {i}", **ratings})
        _write_lines(folder / f"{split}.jsonl.gz", rows)
    other = {"split": "train", "prompt": "x", "response_1": "a", "response_2": "b", "preference_strength": 1}
    _write_lines(folder / "preference" / "preference.jsonl.gz", [other])
    _write_lines(folder / "disagreements" / "disagreements.jsonl.gz", [{"prompt": "x", "helpfulness": [1, 2]}])


def _pku_saferlhf(folder):
    names = {"alpaca-7b": "Alpaca-7B", "alpaca2-7b": "Alpaca2-7B", "alpaca3-8b": "Alpaca3-8B"}
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: data/{place}/{split}.jsonl\n" for split in ("train", "test"))
        for name, place in {"default": "*", **names}.items()
    )
    _write(folder / "README.md", f"---\nlicense: cc-by-nc-4.0\nconfigs:\n{configs}---\n# PKU-SafeRLHF\n")
    for place in names.values():
        for split, n in (("train", N_TRAIN), ("test", N_TEST)):
            rows = [_safety_row(f"{place} {split} {i}", i % 2) for i in range(n)]
            _write_lines(folder / "data" / place / f"{split}.jsonl", rows)


def _safety_row(name, better):
    row = {"prompt": f"what is {name}?", "prompt_source": "test"}
    for k in (0, 1):
        row |= {
            f"response_{k}": f"{'the answer' if k == better else 'no'} to {name}",
            f"response_{k}_source": name.split()[0],
            f"is_response_{k}_safe": k == better,
            f"response_{k}_severity_level": 0 if k == better else 3,
            f"response_{k}_harm_category": {"Violence": k != better, "Privacy Violation": False},
            f"response_{k}_sha256": name,
        }
    return row | {"better_response_id": better, "safer_response_id": better}


def _ultrafeedback(folder):
    _write(folder / "README.md", "---\nlicense: mit\ntask_categories:\n- text-generation\n---\n")
    for source in ("evol_instruct", "false_qa", "flan", "sharegpt", "truthful_qa", "ultrachat"):
        _write_lines(folder / f"{source}.jsonl", [_instruction(source, i) for i in range(6)])


def _instruction(source, i):
    aspects = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    completions = [
        {
            "model": f"model-{k}",
            "principle": "helpfulness",
            "custom_system_prompt": "",
            "response": f"answer {k} to {source} {i}",
            "annotations": {name: {"Rating": str(k + 1), "Rationale": "because"} for name in aspects},
            "fine-grained_score": float(k),
            "overall_score": float(k),
            "critique": "",
        }
        for k in range(4)
    ]
    return {
        "source": source,
        "instruction": f"what is {source} {i}?",
        "models": [one["model"] for one in completions],
        "completions": completions,
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


def _write_lines(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    _write(path, gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text)


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
