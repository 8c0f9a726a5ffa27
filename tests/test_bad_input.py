"""Every kind of wrong input that we know of, through the command line: what the user reads, and what is left behind.

Each kind is a function that makes the wrong thing in an empty folder and returns the command line; beside it stand
the parts of the message that its user needs: the file and the place, what was found, what was expected.
"""

import ctypes
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from filelock import FileLock

from seqdpo import cli
from seqdpo.files import read_sealed, write_sealed
from seqdpo.preferences.sources import library

MAX_LINES = 24  # one screen
MAX_LINE = 500  # characters; seven lines of a narrow terminal
N_PAIRS = 24


@dataclass(frozen=True)
class Bench:
    """A folder with a sound model and sound pairs, where a test makes one thing wrong."""

    folder: Path  # the working directory
    model: Path
    pairs: Path
    finished: Path  # a finished run of `study()`; copy it, do not touch it
    monkeypatch: pytest.MonkeyPatch
    cleanup: ExitStack  # closed when the test is over

    def study(self, **changes: Any) -> str:
        """The name of a study file that is right but for the changes; a key of None is left out."""
        keys = sound_study(self.model, self.pairs) | changes
        return self.write(
            "study.yaml", yaml.safe_dump({key: value for key, value in keys.items() if value is not None})
        )

    def objective(self, dataset_name: object, **keys: Any) -> str:
        """The same, with one objective in TRL's format."""
        objectives = {"brief": {"format": "preference", "dataset_name": dataset_name, **keys}}
        return self.study(objectives=objectives, orders="all")

    def rows(self, name: str, *rows: object) -> str:
        return self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def write(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    def copied_model(self, **config: Any) -> Path:
        """A copy of the sound model in `model`, with other values in its config.json."""
        copy = Path(shutil.copytree(self.model, self.folder / "model"))
        values = json.loads((copy / "config.json").read_text()) | config
        (copy / "config.json").write_text(json.dumps(values))
        return copy

    def copied_run(self) -> Path:
        """A copy of the finished run where the study's output goes."""
        return Path(shutil.copytree(self.finished, self.folder / "out"))

    def without_rights(self, path: Path, rights: int) -> None:
        if os.geteuid() == 0:
            self.monkeypatch.setattr("test_bad_input.exit_code", exit_code_of_everybody)
        self.cleanup.callback(path.chmod, 0o700)
        path.chmod(rights)


class Kind(NamedTuple):
    name: str
    make: Callable[[Bench], list[str]]
    expected: tuple[str, ...]


KINDS: list[Kind] = []


def kind(*expected: str) -> Callable[[Callable[[Bench], list[str]]], Callable[[Bench], list[str]]]:
    """Puts a function into the catalogue, with what its message must say."""

    def register(make: Callable[[Bench], list[str]]) -> Callable[[Bench], list[str]]:
        KINDS.append(Kind(make.__name__, make, expected))
        return make

    return register


def sound_study(model: Path, pairs: Path) -> dict[str, Any]:
    source = {"format": "preference", "dataset_name": str(pairs)}
    return {
        "model_name_or_path": str(model),
        "lora_r": 2,
        "lora_alpha": 4,
        "max_length": 128,
        "eval_fraction": 0.3,
        "per_device_train_batch_size": 16,
        "placebo": 0,
        "objectives": {"kind": source, "brief": source | {"columns": {"chosen": "rejected", "rejected": "chosen"}}},
        "orders": [["kind", "brief"]],
        "output_dir": "out",
    }


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def assistant(content: object) -> dict[str, object]:
    return {"role": "assistant", "content": content}


def talk(number: int, **changes: Any) -> dict[str, Any]:
    row = {"prompt": [user(f"what is {number}")], "chosen": [assistant("the answer")], "rejected": [assistant("no")]}
    return row | changes


def text(number: int, **changes: Any) -> dict[str, Any]:
    return {"prompt": f"what is {number}? ", "chosen": "the answer", "rejected": "no"} | changes


# The study file


@kind("no.yaml: no such file", "seqdpo init")
def study_file_is_not_there(bench):
    return ["run", "no.yaml"]


@kind("studies: is a folder; expected a study file")
def study_file_is_a_folder(bench):
    (bench.folder / "studies").mkdir()
    return ["run", "studies"]


@kind("s.yaml: cannot be read", "Change its rights")
def study_file_without_the_right_to_read(bench):
    bench.without_rights(bench.folder / bench.write("s.yaml", "beta: 1"), 0)
    return ["run", "s.yaml"]


@kind("s.yaml, line 2, column 7: ", "expected YAML")
def study_file_is_not_yaml(bench):
    return ["run", bench.write("s.yaml", "beta: [1\nlora_r: 2\n")]


@kind("s.yaml: byte 6 is not UTF-8")
def study_file_is_not_text(bench):
    return ["run", bench.write("s.yaml", b"beta: \xff")]


@kind("s.yaml: a value cannot be read as YAML (month must be in 1..12)", "quotes")
def study_file_with_a_date_that_is_none(bench):
    return ["run", bench.write("s.yaml", "output_dir: 2026-13-01")]


@kind("s.yaml: holds a list; expected `key: value` lines", "seqdpo init")
def study_file_holds_a_list(bench):
    return ["run", bench.write("s.yaml", "- beta\n")]


@kind("s.yaml: holds nothing", "seqdpo init")
def study_file_is_empty(bench):
    return ["run", bench.write("s.yaml", "")]


@kind("s.yaml, line 2, column 1: the key 'beta' stands twice")
def key_stands_twice(bench):
    return ["run", bench.write("s.yaml", "beta: 0.1\nbeta: 0.3\n")]


@kind("study.yaml: learning_rte is not a key of a study. Did you mean 'learning_rate'?", "Correct it.")
def key_is_unknown(bench):
    return ["run", bench.study(learning_rte=1e-5)]


@kind("  - 1 is not a key of a study; expected text")
def key_is_a_number(bench):
    return ["run", bench.write("study.yaml", "1: 2\n")]


@kind("objectives.brief.colums is not a key of an objective of format preference. Did you mean 'columns'?")
def key_of_an_objective_is_unknown(bench):
    return ["run", bench.objective("x.jsonl", colums={})]


@kind("study.yaml: lora_r = 'many'; expected a whole number")
def value_of_the_wrong_type(bench):
    return ["run", bench.study(lora_r="many")]


@kind("study.yaml: beta = inf; expected a finite number")
def value_is_infinite(bench):
    return ["run", bench.study(beta=float("inf"))]


@kind(
    "study.yaml: 4 problems",
    "warmup_ratio = 0.1 and warmup_steps = 5; expected one of them",
    "lerning_rate is not a key of a study. Did you mean 'learning_rate'?",
    "beta = -1; expected greater than 0",
    "dtype = 'int4'; expected 'float32' or 'bfloat16'",
)
def several_problems_at_once(bench):
    return ["run", bench.study(lerning_rate=1, beta=-1, dtype="int4", warmup_ratio=0.1, warmup_steps=5)]


@kind("study.yaml: orders = 'kind'; expected 'all' or a list")
def orders_is_neither_all_nor_a_list(bench):
    return ["run", bench.study(orders="kind")]


@kind("output_dir is missing; expected a value (the run folder)")
def required_key_is_missing(bench):
    return ["run", bench.study(output_dir=None)]


@kind("setting = 'hh-rhlf' is unknown; expected one of hh-rlhf", "Did you mean 'hh-rlhf'?")
def setting_is_unknown(bench):
    return ["run", bench.study(setting="hh-rhlf", objectives=None)]


@kind("objectives.brief.format = 'csv'; expected one of hh-rlhf")
def format_is_unknown(bench):
    return ["run", bench.study(objectives={"brief": {"format": "csv"}})]


@kind("objectives.brief.dataset_name = ''; expected text that is not empty")
def dataset_name_is_empty(bench):
    return ["run", bench.objective("")]


@kind("objectives.brief.dataset_name.eval is missing")
def dataset_name_has_one_side(bench):
    return ["run", bench.objective({"train": "x.jsonl"})]


@kind("reference = 'stage:2', but no stage comes after it; expected 'base', 'previous' or 'stage:1'")
def reference_has_no_stage_after_it(bench):
    return ["run", bench.study(reference="stage:2")]


# The command line


@kind("command line: study files: none; expected one", "seqdpo init")
def no_study_is_given(bench):
    return ["run", "--beta", "1"]


@kind("study files: study.yaml, other.yaml; expected one")
def two_studies_are_given(bench):
    return ["run", bench.study(), "other.yaml"]


@kind("command line: --beta has no value; expected --beta VALUE")
def flag_without_a_value(bench):
    return ["run", bench.study(), "--beta"]


@kind("command line: --beta has no value; expected --beta VALUE")
def flag_before_another_without_a_value(bench):
    return ["run", bench.study(), "--beta", "--lora-r", "4"]


@kind("study.yaml with flags: learning_rte is not a key of a study. Did you mean 'learning_rate'?")
def flag_is_unknown(bench):
    return ["run", bench.study(), "--learning-rte", "1"]


@kind("command line: --orders = '[[kind' cannot be read; expected a YAML value")
def flag_is_not_yaml(bench):
    return ["plan", bench.study(), "--orders", "[[kind"]


@kind("command line: --beta.x: 'beta' is a value, not a group of keys; expected --beta VALUE")
def flag_reaches_into_a_value(bench):
    return ["run", bench.study(beta=0.1), "--beta.x", "1"]


@kind("No such command 'rum'", "Did you mean 'run'?")
def command_is_unknown(bench):
    return ["rum", bench.study()]


@kind("init: expected a setting, or --from FILE", "seqdpo init --help")
def argument_is_missing(bench):
    return ["init"]


@kind("Invalid value for '--show'", "seqdpo check --help")
def option_of_a_command_is_out_of_range(bench):
    return ["check", bench.study(), "--show=-1"]


@kind("init: 'hh-rhlf' is no setting; expected one of hh-rlhf", "Did you mean 'hh-rlhf'?")
def init_of_an_unknown_setting(bench):
    return ["init", "hh-rhlf"]


@kind("study.yaml: exists already", "--output")
def init_over_a_file(bench):
    return ["init", "hh-rlhf", "--output", bench.study()]


@kind("no/such/folder.yaml: cannot be written: No such file or directory", "--output")
def init_where_no_folder_is(bench):
    return ["init", "hh-rlhf", "--output", "no/such/folder.yaml"]


@kind("output_dir = 'study.yaml/lab-conflict': study.yaml is a file; expected a folder")
def demo_in_a_file(bench):
    return ["demo", "--output-dir", bench.study()]


@kind("output_dir = 'demo/lab-compatible': is a file")
def demo_whose_last_folder_is_a_file(bench):
    bench.write("demo/lab-compatible", "")
    return ["demo", "--all", "--output-dir", "demo"]


# Data


@kind("dataset_name = 'breif.jsonl': no such file or folder here", "Did you mean 'brief.jsonl'?")
def data_file_is_not_there(bench):
    bench.rows("brief.jsonl", talk(1))
    return ["check", bench.objective("breif.jsonl")]


@kind("'a.jsonl': no such file", "'b.jsonl': no such file", "output_dir = 'out': is a file")
def several_things_are_not_there(bench):
    bench.write("out", "")
    objectives = {name: {"format": "preference", "dataset_name": f"{name}.jsonl"} for name in "ab"}
    return ["check", bench.study(objectives=objectives, orders="all")]


@kind("x.jsonl: 0 rows; expected at least one")
def data_file_is_empty(bench):
    return ["run", bench.objective(bench.write("x.jsonl", ""))]


@kind("x.jsonl, line 2: not JSON", "Correct or remove the line")
def line_is_not_json(bench):
    return ["run", bench.objective(bench.write("x.jsonl", json.dumps(talk(1)) + "\n{'prompt': 1}\n"))]


@kind("x.jsonl.gz: broken or cut-off gzip", "download it again")
def gzip_is_cut_off(bench):
    whole = gzip.compress(b"".join(json.dumps(talk(i)).encode() + b"\n" for i in range(500)))
    return ["run", bench.objective(bench.write("x.jsonl.gz", whole[:-20]))]


@kind("x.csv, line 3: 4 cells; expected 3 like the header", "between quotes")
def csv_row_has_more_cells(bench):
    return ["run", bench.objective(bench.write("x.csv", "prompt,chosen,rejected\na,b,c\na,b,c,d\n"))]


@kind("x.jsonl, line 1: byte 14 is not UTF-8", "iconv")
def data_file_is_not_utf8(bench):
    return ["run", bench.objective(bench.write("x.jsonl", b'{"prompt": "a\xe9"}\n'))]


@kind("x.parquet: not Parquet, or damaged")
def data_file_is_not_parquet(bench):
    return ["run", bench.objective(bench.write("x.parquet", "prompt,chosen,rejected"))]


@kind("x.parquet: not Parquet, or damaged")
def parquet_is_cut_off(bench):
    pq.write_table(pa.Table.from_pylist([talk(1)]), bench.folder / "x.parquet")
    path = bench.folder / "x.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    return ["run", bench.objective("x.parquet")]


@kind("x.jsonl: a Git LFS pointer", "git lfs pull")
def data_file_is_a_pointer(bench):
    return ["run", bench.objective(bench.write("x.jsonl", "version https://git-lfs.github.com/spec/v1\n"))]


@kind("x.tsv: extension '.tsv'; expected '.json', '.jsonl', '.csv', '.parquet'", "Convert")
def data_file_of_an_unknown_extension(bench):
    return ["run", bench.objective(bench.write("x.tsv", "prompt\tchosen\trejected\n"))]


@kind("x.jsonl, row 1: column 'chosen' is missing", "Columns there: 'prompt', 'choosen', 'rejected'", "'choosen'?")
def column_is_missing(bench):
    rows = [{"prompt": "a", "choosen": "b", "rejected": "c"}]
    return ["run", bench.objective(bench.rows("x.jsonl", *rows))]


@kind("x.jsonl, row 2: column 'chosen' = 3; expected text or a list of messages")
def value_in_a_row_of_the_wrong_type(bench):
    return ["run", bench.objective(bench.rows("x.jsonl", text(1), text(2, chosen=3)))]


@kind("x.jsonl, row 1: column 'chosen[0]' = {", "expected a message with a text 'role' and a text 'content'")
def message_is_nested_too_deep(bench):
    nested = [assistant([{"type": "text", "text": "the answer"}])]
    return ["run", bench.objective(bench.rows("x.jsonl", talk(1, chosen=nested)))]


@kind("x.jsonl, row 1: column 'strength' = 'strong'; expected a finite number")
def strength_is_no_number(bench):
    return ["run", bench.objective(bench.rows("x.jsonl", text(1, strength="strong")))]


@kind("objective 'brief': pair_id = '7' names two different pairs; expected one id a pair")
def two_pairs_of_one_id(bench):
    return ["run", bench.objective(bench.rows("x.jsonl", text(1, pair_id=7), text(2, pair_id=7)))]


@kind("objective 'brief': no evaluation pairs; 3 read", "eval_fraction")
def one_prompt_only(bench):
    rows = [talk(1, chosen=[assistant(f"answer {i}")]) for i in range(3)]
    return ["run", bench.objective(bench.rows("x.jsonl", *rows))]


@kind("no training pairs; 24 read, dropped: 24 identical_responses", "no evaluation pairs")
def responses_are_identical(bench):
    rows = [talk(i, rejected=[assistant("the answer")]) for i in range(24)]
    return ["run", bench.objective(bench.rows("x.jsonl", *rows))]


@kind("no training pairs; 24 read, dropped:", "over_max_length", "max_length")
def pairs_are_too_long(bench):
    return ["run", bench.study(max_length=8)]


@kind("pair ", "('what is ", " tokens; expected at most max_length = 8", "excess_length_strategy")
def pair_is_too_long_and_that_is_an_error(bench):
    return ["run", bench.study(max_length=8, excess_length_strategy="raise")]


@kind("x.jsonl: no permission to read it")
def data_file_without_the_right_to_read(bench):
    bench.without_rights(bench.folder / bench.rows("x.jsonl", talk(1)), 0)
    return ["run", bench.objective("x.jsonl")]


@kind("data: no folder for subset = 'harmless-base'; expected it beside 'helpful-base'")
def folder_without_the_subset(bench):
    bench.rows("data/helpful-base/train.jsonl", {})
    source = {"format": "hh-rlhf", "dataset_name": "data", "subset": "harmless-base"}
    return ["run", bench.study(objectives={"harmless": source}, orders="all")]


@kind("data: no data files", "There: 'README.md'")
def folder_without_data(bench):
    bench.write("data/README.md", "")
    return ["run", bench.objective("data")]


@kind("dataset_name = 'data': splits 'test', 'validation'; expected one for train")
def folder_without_a_training_split(bench):
    for split in ("test", "validation"):
        bench.rows(f"data/{split}.jsonl", talk(1))
    return ["run", bench.objective("data")]


@kind("data: cannot be loaded", "Save it again")
def saved_dataset_is_damaged(bench):
    bench.write("data/state.json", "{")
    return ["run", bench.objective("data")]


@kind("dataset_revision = 'v2', but dataset_name = 'x.jsonl' is a local path")
def revision_of_a_local_file(bench):
    return ["run", bench.objective(bench.rows("x.jsonl", talk(1)), dataset_revision="v2")]


@kind("dataset_name = 'someone/pairs': no such file or folder here", "The hub could not be reached either")
def dataset_is_neither_here_nor_on_a_hub_that_answers(bench):
    return ["run", bench.objective("someone/pairs")]


@kind("dataset_name = 'someone/pairs': no such file or folder here", "The hub has no dataset of that name for you")
def dataset_is_not_on_the_hub(bench):
    from datasets.exceptions import DatasetNotFoundError

    def load(*args, **options):
        raise DatasetNotFoundError("Dataset 'someone/pairs' doesn't exist on the Hub or cannot be accessed.")

    bench.monkeypatch.setattr(library, "load_from_hub", load)
    return ["run", bench.objective("someone/pairs")]


# The model


@kind("model_name_or_path = './none': no such file or folder here", "meta-llama/Llama-3.1-8B-Instruct")
def model_folder_is_not_there(bench):
    return ["run", bench.study(model_name_or_path="./none")]


@kind("model_name_or_path = 'someone/model': no such file", "The hub could not be reached either", "give its folder")
def model_is_neither_here_nor_on_a_hub_that_answers(bench):
    return ["check", bench.study(model_name_or_path="someone/model")]


@kind("model_name_or_path = 'study.yaml': is a file; expected a model's folder")
def model_is_a_file(bench):
    return ["run", bench.study(model_name_or_path="study.yaml")]


@kind("model_name_or_path = 'model': no config.json; there: none")
def model_folder_is_empty(bench):
    (bench.folder / "model").mkdir()
    return ["run", bench.study(model_name_or_path="model")]


@kind("model: no weights; expected *.safetensors beside", "'config.json'")
def model_folder_without_weights(bench):
    (bench.copied_model() / "model.safetensors").unlink()
    return ["check", bench.study(model_name_or_path="model")]


@kind("model_name_or_path = 'model': cannot be read: Permission denied")
def model_folder_without_the_right_to_read(bench):
    bench.without_rights(bench.copied_model(), 0)
    return ["run", bench.study(model_name_or_path="model")]


@kind("model_revision = 'main', but model_name_or_path = 'model' is a local folder")
def revision_of_a_local_model(bench):
    bench.copied_model()
    return ["run", bench.study(model_name_or_path="model", model_revision="main")]


@kind("model_name_or_path = 'model': its configuration cannot be loaded", "config.json' is not a valid JSON file")
def config_is_not_json(bench):
    (bench.copied_model() / "config.json").write_text("{")
    return ["run", bench.study(model_name_or_path="model")]


@kind("model_name_or_path = 'model': its configuration cannot be loaded", "model type `lama`")
def config_of_an_unknown_model_type(bench):
    bench.copied_model(model_type="lama")
    return ["run", bench.study(model_name_or_path="model")]


@kind("model_name_or_path = 'model': its configuration cannot be loaded", "hidden_size")
def config_with_a_value_of_the_wrong_type(bench):
    bench.copied_model(hidden_size="wide")
    return ["run", bench.study(model_name_or_path="model")]


@kind("model_name_or_path = 'model': BertLMHeadModel reads text in both directions; expected a causal")
def model_is_an_encoder(bench):
    from transformers import BertConfig

    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    (bench.copied_model() / "config.json").write_text(BertConfig(**tiny).to_json_string())
    return ["run", bench.study(model_name_or_path="model")]


@kind("model_name_or_path = 'adapter': an adapter of 'meta-llama/Llama-3.1-8B'; expected a whole model")
def model_is_an_adapter(bench):
    bench.write("adapter/adapter_config.json", '{"base_model_name_or_path": "meta-llama/Llama-3.1-8B"}')
    return ["run", bench.study(model_name_or_path="adapter")]


@kind("model/model.safetensors: no whole safetensors file", "download it again")
def weights_are_cut_off(bench):
    path = bench.copied_model() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:10_000])
    return ["check", bench.study(model_name_or_path="model")]


@kind("model_name_or_path = 'model': 9 tensors missing: model.layers.2.", "expected weights for every part")
def weights_lack_a_layer(bench):
    bench.copied_model(num_hidden_layers=3)
    return ["run", bench.study(model_name_or_path="model")]


@kind("6 tensors of another shape: ", "mlp.down_proj.weight is (64, 128) where config.json wants (64, 96)")
def weights_do_not_fit_the_config(bench):
    bench.copied_model(intermediate_size=96)
    return ["run", bench.study(model_name_or_path="model")]


@kind("model_name_or_path = 'model': model.norm.weight: not all numbers in it are finite")
def weights_are_not_numbers(bench):
    path = bench.copied_model() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\xff\xff\xff\xff")  # NaN
    return ["run", bench.study(model_name_or_path="model")]


@kind("model_name_or_path = 'model': its weights cannot be loaded", "model-00002-of-00002.safetensors")
def shard_of_the_weights_is_missing(bench):
    path = bench.copied_model() / "model.safetensors"
    path.rename(path.with_name("model-00001-of-00002.safetensors"))
    weights = {"model.norm.weight": "model-00001-of-00002.safetensors", "x": "model-00002-of-00002.safetensors"}
    path.with_name("model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    return ["run", bench.study(model_name_or_path="model")]


@kind("model_name_or_path = 'model': its configuration cannot be loaded", "trust_remote_code: true")
def model_comes_with_code(bench):
    (bench.copied_model(model_type="own", auto_map={"AutoConfig": "own.Config"}) / "own.py").write_text("")
    return ["run", bench.study(model_name_or_path="model")]


@kind("model_name_or_path = 'model': its tokenizer cannot be loaded; expected tokenizer.json")
def model_without_a_tokenizer(bench):
    for path in bench.copied_model().glob("tokenizer*"):
        path.unlink()
    return ["run", bench.study(model_name_or_path="model")]


@kind("model_name_or_path = 'model': its tokenizer cannot be loaded")
def tokenizer_is_not_json(bench):
    (bench.copied_model() / "tokenizer.json").write_text("{")
    return ["run", bench.study(model_name_or_path="model")]


@kind("tokenizer of 'model': no chat template", "is a conversation", "chat_template_path")
def tokenizer_without_a_chat_template(bench):
    (bench.copied_model() / "chat_template.jinja").unlink()
    return ["run", bench.study(model_name_or_path="model")]


@kind("the token ", " has id ", "has 280 tokens; expected ids below that")
def tokenizer_of_another_model(bench):
    bench.copied_model(vocab_size=280)
    rows = [talk(i, chosen=[assistant("what the answer is that the model ask the tests")]) for i in range(24)]
    return ["check", bench.objective(bench.rows("x.jsonl", *rows)), "--model-name-or-path", "model"]


@kind("chat_template_path = 'chat.jinja': no such file or folder here")
def chat_template_is_not_there(bench):
    return ["run", bench.study(chat_template_path="chat.jinja")]


@kind("chat.jinja, line 2:", "expected a chat template in Jinja")
def chat_template_is_not_jinja(bench):
    broken = "{{ bos_token }}\n{% for message in messages %}{{ message['content'] }\n"
    return ["run", bench.study(chat_template_path=bench.write("chat.jinja", broken))]


@kind("chat_template_path = 'chat.jinja': holds no chat template")
def chat_template_is_empty(bench):
    return ["run", bench.study(chat_template_path=bench.write("chat.jinja", ""))]


@kind("its prompt begins with two '<bos>' tokens; expected one", "chat_template_path")
def chat_template_doubles_the_beginning(bench):
    doubled = "{{ bos_token }}{{ bos_token }}{% for message in messages %}{{ message['content'] }}<end>{% endfor %}"
    return ["run", bench.study(chat_template_path=bench.write("chat.jinja", doubled))]


@kind("template_refused: a system message first, please", "no training pairs; 24 read, dropped:")
def chat_template_refuses_every_pair(bench):
    strict = "{{ raise_exception('a system message first, please') }}"
    return ["run", bench.study(chat_template_path=bench.write("chat.jinja", strict))]


@kind("lora_target_modules: 'q_porj' is no module", "expected 'all-linear' or names", "Did you mean 'q_proj'?")
def lora_target_that_no_module_has(bench):
    return ["check", bench.study(lora_target_modules=["v_proj", "q_porj"])]


@kind("lora_target_modules = ['norm'] does not fit the model", "names of its linear layers", "LlamaRMSNorm")
def lora_target_that_is_not_linear(bench):
    return ["check", bench.study(lora_target_modules=["norm"])]


@kind("max_length = 1024: the model of", "reads at most 512 tokens", "Set max_length: 512")
def max_length_is_more_than_the_model_reads(bench):
    return ["run", bench.study(max_length=1024)]


# The run folder


@kind("output_dir = 'out': is a file; expected a folder")
def output_dir_is_a_file(bench):
    bench.write("out", "")
    return ["run", bench.study()]


@kind("output_dir = 'study.yaml/out': study.yaml is a file; expected a folder")
def output_dir_is_below_a_file(bench):
    return ["run", bench.study(output_dir="study.yaml/out")]


@kind("output_dir = 'out': holds notes.txt, but no manifest.json", "Choose another output_dir")
def output_dir_holds_other_things(bench):
    bench.write("out/notes.txt", "")
    return ["run", bench.study()]


@kind("output_dir = '.': holds study.yaml, but no manifest.json")
def output_dir_holds_the_study_itself(bench):
    return ["run", bench.study(output_dir=".")]


@kind("output_dir = 'out/run': no permission to write in", "out; expected a folder of yours")
def output_dir_without_rights(bench):
    (bench.folder / "out").mkdir()
    bench.without_rights(bench.folder / "out", 0o500)
    return ["run", bench.study(output_dir="out/run")]


@kind("output_dir = 'a\\x00b'; expected no null character in it")
def output_dir_with_a_null_character(bench):
    return ["run", bench.study(output_dir="a\0b")]


@kind("cannot be used: File name too long")
def output_dir_of_an_impossible_name(bench):
    return ["run", bench.study(output_dir="x" * 300)]


@kind("output_dir = 'out': another process is running a study there", "Wait for it")
def output_dir_is_in_use(bench):
    bench.cleanup.enter_context(FileLock(bench.copied_run() / ".lock"))
    return ["run", bench.study()]


@kind(
    "output_dir = 'out': holds another study",
    "beta = 0.5 here; 0.3 there",
    "objectives.kind.max_train_pairs = 5 here; None there",
    "Use another output_dir",
)
def output_dir_holds_another_study(bench):
    bench.copied_run()
    return ["run", bench.study(beta=0.5), "--objectives.kind.max_train_pairs", "5"]


@kind("output_dir = 'out': holds another study", "the data is another one")
def output_dir_holds_a_study_of_other_data(bench):
    run = bench.copied_run()
    for name in ("manifest.json", "stages/base/node.json"):
        record = read_sealed(run / name)
        record["identity"]["data"] = "0123456789abcdef"
        write_sealed(run / name, record)
    return ["run", bench.study()]


@kind("output_dir = 'out': holds another study", "the model is another one")
def output_dir_holds_a_study_of_another_model(bench):
    run = bench.copied_run()
    copy = bench.copied_model(rms_norm_eps=1e-5)
    stored = yaml.safe_load((run / "study.yaml").read_text()) | {"model_name_or_path": "model"}
    (run / "study.yaml").write_text(yaml.safe_dump(stored))
    return ["run", bench.study(model_name_or_path=copy.name)]


# The tests


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(talk(i)) + "\n" for i in range(N_PAIRS)))
    return path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, tiny_model_folder, pairs_file):
    folder = tmp_path_factory.mktemp("finished")
    study = folder / "study.yaml"
    study.write_text(yaml.safe_dump(sound_study(tiny_model_folder, pairs_file) | {"output_dir": str(folder / "out")}))
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert exit_code(monkeypatch, ["run", str(study)]) == 0
    return folder / "out"


@pytest.fixture
def bench(tmp_path, monkeypatch, tiny_model_folder, pairs_file, finished_run):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SEQDPO_CACHE", str(tmp_path / "cache"))
    with ExitStack() as cleanup:
        yield Bench(folder, tiny_model_folder, pairs_file, finished_run, monkeypatch, cleanup)


def exit_code(monkeypatch, arguments):
    """The command line in this process, as `seqdpo` calls it."""
    monkeypatch.setattr(sys, "argv", ["seqdpo", *arguments])
    try:
        cli.main()
    except SystemExit as ended:
        return ended.code
    return 0


def exit_code_of_everybody(monkeypatch, arguments):
    """The same in a process of a superuser that rights bind, too: what it starts with lacks what overrides them."""
    command = [sys.executable, "-m", "seqdpo", *arguments]
    try:
        return subprocess.run(command, preexec_fn=drop_the_override_of_rights).returncode
    except subprocess.SubprocessError:
        pytest.skip("rights do not bind this superuser")


def drop_the_override_of_rights():
    pr_capbset_drop, cap_dac_override, cap_dac_read_search = 24, 1, 2  # of linux/prctl.h, linux/capability.h
    for capability in (cap_dac_override, cap_dac_read_search):
        assert ctypes.CDLL(None).prctl(pr_capbset_drop, capability, 0, 0, 0) == 0


def files_below(folder):
    """What lies below a folder; without its content where that cannot be read."""
    paths = [path for path in folder.rglob("*") if os.access(path, os.R_OK)]
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_wrong_input_is_explained_and_leaves_nothing_behind(kind, bench, monkeypatch, capfd):
    arguments = kind.make(bench)
    before = files_below(bench.folder)
    capfd.readouterr()
    code = exit_code(monkeypatch, arguments)
    printed = "".join(capfd.readouterr())
    assert code == 2, printed
    for part in kind.expected:
        assert part in printed
    assert "Traceback" not in printed
    assert len(printed.splitlines()) <= MAX_LINES, printed
    assert max(map(len, printed.splitlines())) <= MAX_LINE
    assert files_below(bench.folder) == before


def test_the_same_study_without_a_fault_is_accepted(bench, monkeypatch, capfd):
    bench.copied_run()
    assert exit_code(monkeypatch, ["check", bench.study()]) == 0
    assert exit_code(monkeypatch, ["run", bench.study()]) == 0
    assert "No problems found" in capfd.readouterr().out


def test_a_reader_that_has_gone_ends_the_output_quietly():
    command = [sys.executable, "-m", "seqdpo", "init", "hh-rlhf", "--output", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.wait() == 141  # as a shell reports SIGPIPE; 1 would be a failed gate
        assert process.stderr.read() == ""


def test_an_interrupted_run_says_how_to_go_on(bench, monkeypatch, capfd):
    def interrupt(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("seqdpo.runner.study.run_study", interrupt)
    assert exit_code(monkeypatch, ["run", bench.study()]) == 130
    assert "Run the same command again to continue." in capfd.readouterr().err


def test_the_catalogue_has_more_than_forty_kinds():
    assert len({kind.name for kind in KINDS}) == len(KINDS) > 40
