"""Sources: files, folders laid out as upstream, saved datasets, the hub; and what is wrong with them."""

import csv
import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from seqdpo.errors import ConfigError, DataError, SeqdpoError
from seqdpo.preferences.files import read_rows
from seqdpo.preferences.pairs import Drop, Message, Pair
from seqdpo.preferences.sources import library, read_candidates
from seqdpo.study.objectives import (
    HelpSteer2Objective,
    HhRlhfObjective,
    PkuSafeRlhfObjective,
    PreferenceObjective,
    UltraFeedbackObjective,
)


def brief(chosen, **extra):
    """A row whose pair is recognised by its chosen response."""
    return {"prompt": "p", "chosen": chosen, "rejected": "worse", **extra}


def dialogue(chosen):
    return {"chosen": f"\n\nHuman: Hi.\n\nAssistant: {chosen}", "rejected": "\n\nHuman: Hi.\n\nAssistant: worse"}


def rated(prompt, response, rating):
    ratings = dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), rating)
    return {"prompt": prompt, "response": response, **ratings}


def judged(chosen):
    row = {"prompt": "p", "prompt_source": "x", "better_response_id": 0, "safer_response_id": 0}
    for i, (response, safe) in enumerate([(chosen, True), ("worse", False)]):
        row |= {
            f"response_{i}": response,
            f"is_response_{i}_safe": safe,
            f"response_{i}_severity_level": 0 if safe else 1,
            f"response_{i}_harm_category": {"Drugs": not safe},
        }
    return row


def completed(chosen):
    def completion(response, rating):
        return {"response": response, "annotations": {"honesty": {"Rating": rating, "Rationale": ""}}}

    return {"source": "flan", "instruction": "p", "completions": [completion(chosen, "5"), completion("worse", "1")]}


def write(path, *rows):
    """A JSON lines file, gzipped if its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
    return path


def preference(name, **options):
    return PreferenceObjective(format="preference", dataset_name=str(name), **options)


def found(objective):
    """(upstream split, chosen response) of all pairs; a dropped row fails the test."""
    pairs = list(read_candidates("one", objective))
    assert all(isinstance(pair, Pair) for pair in pairs)
    return [(pair.upstream_split, pair.chosen) for pair in pairs]


# Files


def test_single_file_leaves_the_split_to_the_study(tmp_path):
    assert found(preference(write(tmp_path / "train.jsonl", brief("a"), brief("b")))) == [(None, "a"), (None, "b")]


def test_every_format_gives_the_same_pairs(tmp_path):
    rows = [brief("2024-01-02", source="NA"), brief("007", source="null"), brief('a "b", c\nd', source="")]
    jsonl = write(tmp_path / "a.jsonl", *rows)
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=1))
    with (tmp_path / "c.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    gzipped = write(tmp_path / "e.jsonl.gz", *rows)
    (tmp_path / "f.CSV.gz").write_bytes(gzip.compress((tmp_path / "c.csv").read_bytes()))
    expected = list(read_candidates("one", preference(jsonl)))
    assert [(pair.chosen, pair.slices) for pair in expected] == [
        ("2024-01-02", {"source": "NA"}),
        ("007", {"source": "null"}),
        ('a "b", c\nd', {"source": ""}),
    ]
    for name in ("b.json", "c.csv", "d.parquet", gzipped.name, "f.CSV.gz"):
        assert list(read_candidates("one", preference(tmp_path / name))) == expected


def test_conversations_survive_parquet(tmp_path):
    def messages(text):
        return [{"role": "user", "content": "p"}, {"role": "assistant", "content": text}]

    table = pa.Table.from_pylist([{"chosen": messages("a"), "rejected": messages("b")}])
    pq.write_table(table, tmp_path / "x.parquet")
    (pair,) = read_candidates("one", preference(tmp_path / "x.parquet"))
    assert (pair.prompt, pair.chosen, pair.rejected) == ((Message("user", "p"),), "a", "b")


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(brief("a")).encode() + b"\n\n  \n")
    assert found(preference(path)) == [(None, "a")]
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbfprompt,chosen,rejected\r\np,a,worse\r\n\r\n")
    assert found(preference(path)) == [(None, "a")]


def test_cell_longer_than_the_csv_limit_is_read(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(f"prompt,chosen,rejected\np,{'a' * 200_000},b\n")
    assert len(found(preference(path))[0][1]) == 200_000


def test_second_read_of_a_changed_file_sees_the_change(tmp_path):
    path = write(tmp_path / "x.jsonl", brief("a"))
    stamp = path.stat()
    assert found(preference(path)) == [(None, "a")]
    write(path, brief("b"))  # the same size
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # and the same time
    assert found(preference(path)) == [(None, "b")]


def test_value_of_another_type_in_one_row_is_an_error_and_never_null(tmp_path):
    path = write(tmp_path / "x.jsonl", brief("a"), brief(3), brief("c"))
    with pytest.raises(DataError, match=r"x.jsonl, row 2: column 'chosen' = 3; expected text"):
        list(read_candidates("one", preference(path)))


def test_lone_surrogate_in_a_json_escape_does_not_stop_the_read(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "p", "chosen": "\\ud800\\u0000", "rejected": "b"}\n')
    assert found(preference(path)) == [(None, "\ud800\0")]


# Splits


def test_train_and_eval_paths_name_the_sides(tmp_path):
    write(tmp_path / "x.jsonl", brief("a")), write(tmp_path / "y.jsonl", brief("b"))
    paths = {"train": str(tmp_path / "x.jsonl"), "eval": str(tmp_path / "y.jsonl")}
    objective = PreferenceObjective(format="preference", dataset_name=paths)
    assert found(objective) == [("train", "a"), ("eval", "b")]


def test_folder_given_as_a_side_gives_the_split_of_that_side(tmp_path):
    write(tmp_path / "d" / "train.jsonl", brief("a")), write(tmp_path / "d" / "test.jsonl", brief("b"))
    paths = {"train": str(tmp_path / "d"), "eval": str(tmp_path / "d")}
    objective = PreferenceObjective(format="preference", dataset_name=paths)
    assert found(objective) == [("train", "a"), ("eval", "b")]


@pytest.mark.parametrize("name", ["test", "validation", "valid", "val", "dev", "eval", "evaluation", "test_prefs"])
def test_folder_with_two_splits_keeps_them(tmp_path, name):
    write(tmp_path / "train.jsonl", brief("a")), write(tmp_path / f"{name}.jsonl", brief("b"))
    assert found(preference(tmp_path)) == [("train", "a"), ("eval", "b")]


def test_test_goes_before_validation(tmp_path):
    for split in ("train", "test", "validation"):
        write(tmp_path / f"{split}.jsonl", brief(split))
    assert found(preference(tmp_path)) == [("train", "train"), ("eval", "test")]


@pytest.mark.parametrize("name", ["train", "test"])
def test_folder_with_one_split_leaves_the_split_to_the_study(tmp_path, name):
    write(tmp_path / f"{name}.jsonl", brief("a"))
    assert found(preference(tmp_path)) == [(None, "a")]


def test_folder_of_files_without_splits_in_their_names_is_one_source(tmp_path):
    write(tmp_path / "b.jsonl", brief("b")), write(tmp_path / "a.jsonl", brief("a"))
    (tmp_path / "README.md").write_text("# Data")
    assert found(preference(tmp_path)) == [(None, "a"), (None, "b")]


def test_shards_of_a_split_belong_together_also_in_a_data_folder(tmp_path):
    for i in (0, 1):
        write(tmp_path / "data" / f"train-0000{i}-of-00002.jsonl", brief(f"a{i}"))
    write(tmp_path / "data" / "test-00000-of-00001.jsonl", brief("b"))
    assert found(preference(tmp_path)) == [("train", "a0"), ("train", "a1"), ("eval", "b")]


def test_preference_splits_win_over_others_of_the_same_side(tmp_path):
    for split in ("train_prefs", "train_sft", "test_prefs", "test_sft"):
        write(tmp_path / f"{split}.jsonl", brief(split))
    assert found(preference(tmp_path)) == [("train", "train_prefs"), ("eval", "test_prefs")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train.jsonl", "test.jsonl", "more.jsonl"), "data files 'more' beside 'test', 'train'"),
        (("train.jsonl", "train.jsonl.gz"), r"train.jsonl.gz: beside train.jsonl; expected one file of that name"),
        (("train_a.jsonl", "train_b.jsonl", "test.jsonl"), "splits 'train_a', 'train_b' could all be the train split"),
        (("test.jsonl", "validation.jsonl"), "splits 'test', 'validation'; expected one for train"),
    ],
)
def test_folder_whose_splits_are_unclear_is_refused(tmp_path, names, message):
    for name in names:
        write(tmp_path / name, brief("a"))
    with pytest.raises(ConfigError, match=message):
        read_candidates("one", preference(tmp_path))


# Layouts of the four datasets


def hh(folder, subset="harmless-base"):
    return HhRlhfObjective(format="hh-rlhf", dataset_name=str(folder), subset=subset)


@pytest.mark.parametrize("suffix", ["jsonl.gz", "jsonl"])
def test_hh_rlhf_folder_holds_subsets_with_splits(tmp_path, suffix):
    write(tmp_path / "harmless-base" / f"train.{suffix}", dialogue("a"))
    write(tmp_path / "harmless-base" / f"test.{suffix}", dialogue("b"))
    write(tmp_path / "helpful-base" / f"train.{suffix}", dialogue("c"))
    assert found(hh(tmp_path)) == [("train", "a"), ("eval", "b")]
    assert found(hh(tmp_path, "helpful-base")) == [(None, "c")]
    assert found(hh(tmp_path / "harmless-base")) == [("train", "a"), ("eval", "b")]


def test_missing_subset_lists_those_there(tmp_path):
    write(tmp_path / "harmless_base" / "test.jsonl", dialogue("a"))
    message = "no folder for subset = 'harmless-base'; expected it beside 'harmless_base'. Did you mean 'harmless_base'"
    with pytest.raises(ConfigError, match=message):
        read_candidates("one", hh(tmp_path))


def test_helpsteer2_folder_holds_train_and_validation(tmp_path):
    write(tmp_path / "train.jsonl.gz", rated("p", "worse", 1), rated("p", "a", 2))
    write(tmp_path / "validation.jsonl.gz", rated("q", "b", 2), rated("q", "worse", 1), rated("r", "lone", 1))
    write(tmp_path / "preference" / "preference.jsonl.gz", {"other": "schema"})
    objective = HelpSteer2Objective(format="helpsteer2", dataset_name=str(tmp_path), attribute="helpfulness")
    first, second, third = read_candidates("one", objective)
    assert (first.upstream_split, first.chosen) == ("train", "a")
    assert (second.upstream_split, second.chosen) == ("eval", "b")
    assert third == Drop("no_partner")


def pku(folder, **options):
    return PkuSafeRlhfObjective(format="pku-saferlhf", dataset_name=str(folder), label="safe", **options)


@pytest.mark.parametrize("root", ["data", "."])
def test_pku_saferlhf_default_is_all_subsets(tmp_path, root):
    for model in ("Alpaca-7B", "Alpaca2-7B", "Alpaca3-8B"):
        for split in ("train", "test"):
            write(tmp_path / root / model / f"{split}.jsonl", judged(f"{model} {split}"))
    models = ("Alpaca-7B", "Alpaca2-7B", "Alpaca3-8B")
    assert found(pku(tmp_path)) == [
        *[("train", f"{model} train") for model in models],
        *[("eval", f"{model} test") for model in models],
    ]
    assert found(pku(tmp_path, subset="alpaca2-7b")) == [("train", "Alpaca2-7B train"), ("eval", "Alpaca2-7B test")]


def test_pku_saferlhf_files_may_lie_in_the_folder_itself(tmp_path):
    write(tmp_path / "train.jsonl", judged("a")), write(tmp_path / "test.jsonl", judged("b"))
    assert found(pku(tmp_path, subset="alpaca-7b")) == [("train", "a"), ("eval", "b")]


def test_pku_saferlhf_without_the_subset_lists_those_there(tmp_path):
    write(tmp_path / "data" / "Alpaca-7B" / "train.jsonl", judged("a"))
    with pytest.raises(ConfigError, match="no folder for subset = 'alpaca3-8b'; expected it beside 'Alpaca-7B'"):
        read_candidates("one", pku(tmp_path, subset="alpaca3-8b"))


def test_ultrafeedback_folder_is_one_source_of_several_files(tmp_path):
    for name in ("flan", "evol_instruct", "false_qa", "sharegpt", "truthful_qa", "ultrachat"):
        write(tmp_path / f"{name}.jsonl", completed(name))
    objective = UltraFeedbackObjective(format="ultrafeedback", dataset_name=str(tmp_path), aspect="honesty")
    assert sorted(found(objective)) == [
        (None, name) for name in ("evol_instruct", "false_qa", "flan", "sharegpt", "truthful_qa", "ultrachat")
    ]


# Folders of the datasets library


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets")


def test_saved_dataset_leaves_the_split_to_the_study(tmp_path, datasets):
    datasets.Dataset.from_list([brief("a")]).save_to_disk(str(tmp_path / "saved"))
    assert found(preference(tmp_path / "saved")) == [(None, "a")]


def test_saved_dataset_dict_keeps_its_splits_and_leaves_others_unread(tmp_path, datasets):
    splits = {name: datasets.Dataset.from_list([dialogue(name)]) for name in ("train", "test", "validation", "more")}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    assert found(hh(tmp_path / "saved")) == [("train", "train"), ("eval", "test")]


def test_error_in_a_saved_split_names_folder_and_split(tmp_path, datasets):
    rows = datasets.Dataset.from_list([{"prompt": "p", "chosen": 1, "rejected": "b"}])
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"saved \(train\), row 1: column 'chosen' = 1; expected text"):
        list(read_candidates("one", preference(tmp_path / "saved")))


def test_damaged_saved_folder_is_explained(tmp_path, datasets):
    datasets.Dataset.from_list([brief("a")]).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(DataError, match=r"saved: cannot be loaded .*Save it again"):
        read_candidates("one", preference(tmp_path / "saved"))


# Folders with a dataset card


def card(folder, *configs):
    folder.mkdir(exist_ok=True)
    head = yaml.safe_dump({"license": "mit", "configs": list(configs)}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{head}---\n# Pairs\n\n---\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("data_files", "pairs"),
    [
        ("good.jsonl", [(None, "good")]),
        (["good.jsonl", "sub/more.jsonl"], [(None, "good"), (None, "more")]),
        ("sub/*", [(None, "more")]),
        (
            [{"split": "train", "path": "good.jsonl"}, {"split": "test", "path": ["sub/*.jsonl"]}],
            [("train", "good"), ("eval", "more")],
        ),
        ({"train": "good.jsonl", "validation": "sub/more.jsonl"}, [("train", "good"), ("eval", "more")]),
        ([{"split": "train", "path": "**/*.jsonl"}], [(None, "draft"), (None, "good"), (None, "more")]),
    ],
)
def test_a_dataset_card_says_which_files_are_data(tmp_path, data_files, pairs):
    for name in ("good", "draft", "sub/more"):
        write(tmp_path / f"{name}.jsonl", brief(name.removeprefix("sub/")))
    card(tmp_path, {"config_name": "default", "data_files": data_files})
    assert found(preference(tmp_path)) == pairs


def test_a_configuration_of_a_card_is_a_subset(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", brief(name))
    configs = [{"config_name": name, "data_files": f"{name}.jsonl"} for name in ("a", "b")]
    card(tmp_path, *configs)
    assert found(preference(tmp_path, subset="b")) == [(None, "b")]
    with pytest.raises(ConfigError, match=r"configurations 'a', 'b' and no default; .* Set subset: a"):
        read_candidates("one", preference(tmp_path))
    card(tmp_path, configs[0], configs[1] | {"default": True})
    assert found(preference(tmp_path)) == [(None, "b")]


def test_a_configuration_may_lie_in_a_folder_of_its_own(tmp_path):
    write(tmp_path / "v2" / "x.jsonl", brief("new")), write(tmp_path / "x.jsonl", brief("old"))
    card(tmp_path, {"config_name": "default", "data_dir": "v2"})
    assert found(preference(tmp_path)) == [(None, "new")]


def test_a_card_reads_the_files_that_the_datasets_library_reads(tmp_path, datasets):
    for name in ("good", "draft"):
        write(tmp_path / f"{name}.jsonl", brief(name))
    card(tmp_path, {"config_name": "default", "data_files": [{"split": "train", "path": "good*"}]})
    theirs = datasets.load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"))["train"]["chosen"]
    assert [chosen for _, chosen in found(preference(tmp_path))] == list(theirs) == ["good"]


def test_a_file_that_a_card_names_must_be_there(tmp_path):
    write(tmp_path / "x.jsonl", brief("a"))
    card(tmp_path, {"data_files": "gone.jsonl"})
    with pytest.raises(
        ConfigError, match=r"README.md: names the data file 'gone.jsonl', but .* has 'README.md', 'x.jsonl'"
    ):
        read_candidates("one", preference(tmp_path))


@pytest.mark.parametrize("text", ["# Pairs\n\n---\n", "---\nlicense: mit\n---\n", "---\nconfigs: none\n---\n", "---\n"])
def test_a_card_that_names_no_files_leaves_them_all(tmp_path, text):
    write(tmp_path / "a.jsonl", brief("a")), write(tmp_path / "b.jsonl", brief("b"))
    (tmp_path / "README.md").write_text(text)
    assert found(preference(tmp_path)) == [(None, "a"), (None, "b")]


def test_a_card_whose_head_is_no_yaml_is_said(tmp_path):
    write(tmp_path / "a.jsonl", brief("a"))
    (tmp_path / "README.md").write_text("---\nconfigs: [\n---\n")
    with pytest.raises(ConfigError, match=r"README.md: its head cannot be read as YAML"):
        read_candidates("one", preference(tmp_path))


# Splits by name


def test_folders_with_splits_names_are_the_splits(tmp_path):
    write(tmp_path / "train" / "0000.jsonl", brief("a")), write(tmp_path / "test" / "0000.jsonl", brief("b"))
    (tmp_path / "images").mkdir()
    assert found(preference(tmp_path)) == [("train", "a"), ("eval", "b")]


@pytest.fixture
def oddly_split(tmp_path, datasets):
    splits = {name: datasets.Dataset.from_list([brief(name)]) for name in ("gpt4", "human", "test_a", "test_b")}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_splits_may_be_named(oddly_split):
    both = preference(oddly_split, dataset_train_split="human", dataset_test_split="test_b")
    assert found(both) == [("train", "human"), ("eval", "test_b")]
    assert found(preference(oddly_split, dataset_train_split="gpt4")) == [(None, "gpt4")]


def test_a_named_split_that_is_not_there_is_said(oddly_split):
    with pytest.raises(ConfigError, match=r"dataset_train_split = 'humans': .* splits 'gpt4', .* Did you mean 'human'"):
        read_candidates("one", preference(oddly_split, dataset_train_split="humans"))


def test_unclear_splits_are_answered_with_the_keys_that_name_them(oddly_split):
    with pytest.raises(ConfigError, match="dataset_train_split and dataset_test_split"):
        read_candidates("one", preference(oddly_split))


def test_files_of_one_source_are_of_one_kind(tmp_path):
    write(tmp_path / "a.jsonl", brief("a"))
    write(tmp_path / "b.jsonl", {"chosen": "p more", "rejected": "p less"})
    with pytest.raises(DataError, match=r"b.jsonl: without a column 'prompt', but .*a.jsonl: with a column 'prompt'"):
        list(read_candidates("one", preference(tmp_path)))
    sides = {"train": str(tmp_path / "a.jsonl"), "eval": str(tmp_path / "b.jsonl")}
    with pytest.raises(DataError, match="one kind of rows in all files"):
        list(read_candidates("one", PreferenceObjective(format="preference", dataset_name=sides)))


@pytest.mark.parametrize("nested", [False, True], ids=["a picture", "a list of pictures"])
def test_pictures_beside_the_text_need_no_library_that_decodes_them(tmp_path, datasets, monkeypatch, nested):
    picture = {"bytes": b"no picture", "path": "a.png"}
    rows = datasets.Dataset.from_list([brief("a", avatar=[picture] if nested else picture)])
    rows.save_to_disk(str(tmp_path / "saved"))
    info = tmp_path / "saved" / "dataset_info.json"
    facts = json.loads(info.read_text())
    image = {"_type": "Image"}
    facts["features"]["avatar"] = {"feature": image, "_type": "List"} if nested else image
    info.write_text(json.dumps(facts))
    monkeypatch.setattr(datasets.config, "PIL_AVAILABLE", False)
    assert found(preference(tmp_path / "saved")) == [(None, "a")]


# The hub


@pytest.fixture
def hub(monkeypatch):
    """Answers every hub id with two splits and remembers what it was asked."""
    asked = []

    def load(dataset_id, **arguments):
        asked.append((dataset_id, arguments))
        return {"train": [brief("a")], "test": [brief("b")]}

    monkeypatch.setattr(library, "load_from_hub", load)
    return asked


def test_hub_id_is_asked_for_with_subset_and_revision(hub):
    objective = preference("someone/pairs", subset="small", dataset_revision="abc")
    assert found(objective) == [("train", "a"), ("eval", "b")]
    assert hub == [("someone/pairs", {"name": "small", "data_dir": None, "revision": "abc"})]


def test_hh_rlhf_subset_is_a_folder_on_the_hub_and_pku_saferlhf_subset_a_configuration(hub):
    read_candidates("one", HhRlhfObjective(format="hh-rlhf", subset="helpful-base"))
    read_candidates("one", PkuSafeRlhfObjective(format="pku-saferlhf", label="safe"))
    read_candidates("one", HelpSteer2Objective(format="helpsteer2", attribute="verbosity"))
    assert hub == [
        ("Anthropic/hh-rlhf", {"name": None, "data_dir": "helpful-base", "revision": None}),
        ("PKU-Alignment/PKU-SafeRLHF", {"name": "default", "data_dir": None, "revision": None}),
        ("nvidia/HelpSteer2", {"name": None, "data_dir": None, "revision": None}),
    ]


def test_hub_rows_are_named_by_id_and_split_in_messages(monkeypatch):
    monkeypatch.setattr(library, "load_from_hub", lambda *args, **more: {"train": [brief("a")], "test": [brief(3)]})
    with pytest.raises(DataError, match=r"someone/pairs \(test\), row 1: column 'chosen' = 3"):
        list(read_candidates("one", preference("someone/pairs")))


def chained(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("Couldn't reach 'x'"), "The hub could not be reached either"),
        (ValueError("BuilderConfig 'x' not found. Available: ['y']\nmore"), r"Available: \['y'\]\. Check subset"),
        (chained(RuntimeError("An error occurred while generating the dataset"), OSError("disk full")), "disk full"),
    ],
)
def test_neither_path_nor_hub_says_both(tmp_path, monkeypatch, error, message):
    def fail(*args, **arguments):
        raise error

    monkeypatch.setattr(library, "load_from_hub", fail)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"'someone/pairs': no such file or folder here.*{message}") as raised:
        read_candidates("one", preference("someone/pairs"))
    assert "more" not in str(raised.value)
    assert "generating the dataset" not in str(raised.value)


def test_unknown_hub_dataset_says_that_it_may_be_private(monkeypatch, datasets):
    def fail(*args, **arguments):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'x' doesn't exist on the Hub or cannot be accessed.")

    monkeypatch.setattr(library, "load_from_hub", fail)
    with pytest.raises(ConfigError, match=r"The hub has no dataset of that name for you.*log in"):
        read_candidates("one", preference("someone/pairs"))


def test_loading_from_the_hub_leaves_progress_bars_and_log_levels_as_they_were(monkeypatch, datasets):
    during = []

    def load_dataset(*args, **arguments):
        during.append((datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()))
        return {"train": []}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    before = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    library.load_from_hub("someone/pairs", name=None, data_dir=None, revision=None)
    assert during == [(True, datasets.logging.CRITICAL)]
    assert (datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()) == before


def test_revision_with_a_local_path_is_refused(tmp_path):
    path = write(tmp_path / "x.jsonl", brief("a"))
    with pytest.raises(ConfigError, match=r"dataset_revision = 'abc', but dataset_name = .* is a local path"):
        read_candidates("one", preference(path, dataset_revision="abc"))


# What can be wrong with a path


def test_missing_file_lists_what_is_there_and_the_nearest(tmp_path):
    write(tmp_path / "brief.jsonl", brief("a"))
    message = "no such file or folder here; .* has 'brief.jsonl'. Did you mean 'brief.jsonl'"
    with pytest.raises(ConfigError, match=message):
        read_candidates("one", preference(tmp_path / "breif.jsonl"))


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no such file or folder here, nor a folder '.*nowhere'"):
        read_candidates("one", preference(tmp_path / "nowhere" / "x.jsonl"))


def test_path_errors_come_before_the_first_pair(tmp_path):
    with pytest.raises(ConfigError):
        read_candidates("one", preference(tmp_path / "x.jsonl"))  # the iterator is not touched


def test_folder_without_data_files_lists_what_is_there(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"no data files; expected '.json', .* There: 'notes.txt'"):
        read_candidates("one", preference(tmp_path))


def test_unknown_extension_lists_the_known_ones(tmp_path):
    (tmp_path / "x.tsv.zst").write_text("x")
    with pytest.raises(ConfigError, match=r"extension '.tsv.zst'; expected '.json', '.jsonl', '.csv', '.parquet'"):
        read_candidates("one", preference(tmp_path / "x.tsv.zst"))


def test_file_without_the_right_to_read_is_explained(tmp_path, monkeypatch):
    path = write(tmp_path / "x.jsonl", brief("a"))

    def refuse(self, *args, **arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)  # rights bind no superuser, and tests may run as one
    with pytest.raises(DataError, match=r"x.jsonl: no permission to read it"):
        list(read_candidates("one", preference(path)))


# What can be wrong in a file


GOOD = json.dumps(brief("a")).encode() + b"\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", "empty.jsonl: 0 rows; expected at least one"),
        ("blank.jsonl", b"\n\n", "blank.jsonl: 0 rows"),
        ("empty.json", b"[]", "empty.json: 0 rows"),
        ("header.csv", b"prompt,chosen,rejected\n", "header.csv: 0 rows"),
        ("cut.jsonl", GOOD + b"\n" + b'{"prompt": "p",\n', "cut.jsonl, line 3: not JSON"),
        ("word.jsonl", GOOD + b"hello\n", r"word.jsonl, line 2: not JSON \(Expecting value at column 1\)"),
        ("list.json", b'[{"a": 1},\n{"b": }]', "list.json, line 2: not JSON"),
        ("pretty.json", b'{\n"prompt": \n}', "pretty.json, line 3: not JSON .*one list of objects"),
        ("scalar.jsonl", GOOD + b"3\n", "scalar.jsonl, line 2: 3; expected an object with named columns"),
        ("scalars.json", b"[3]", "scalars.json, row 1: 3; expected an object with named columns"),
        ("latin.jsonl", GOOD + b'{"prompt": "\xe9"}\n', "latin.jsonl, line 2: byte 13 is not UTF-8"),
        ("latin.csv", b"prompt,chosen,rejected\n\xe9,a,b\n", "latin.csv, line 2: byte 1 is not UTF-8"),
        ("long.csv", b"prompt,chosen,rejected\np,a,b\np,a,b,c\n", "long.csv, line 3: 4 cells; expected 3"),
        ("short.csv", b"prompt,chosen,rejected\np,a\n", "short.csv, line 2: 2 cells; expected 3"),
        ("quote.csv", b'prompt,chosen,rejected\n"p,a,b\n', "quote.csv, line 2: not CSV"),
        ("twice.csv", b"prompt,chosen,chosen\np,a,b\n", "twice.csv, line 1: column 'chosen' twice"),
        ("text.parquet", b"hello", "text.parquet: not Parquet, or damaged"),
        ("text.jsonl.gz", GOOD, "text.jsonl.gz: broken or cut-off gzip"),
        ("cut.jsonl.gz", gzip.compress(GOOD * 50, mtime=0)[:-12], "cut.jsonl.gz: broken or cut-off gzip"),
        ("pointer.jsonl.gz", b"version https://git-lfs.github.com/spec/v1\noid", "pointer.jsonl.gz: a Git LFS pointer"),
        ("columns.jsonl", b'{"question": "p"}\n', "columns.jsonl, row 1: column 'chosen' is missing"),
    ],
)
def test_broken_file_is_explained_where_it_breaks(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_candidates("one", preference(tmp_path / name)))


def test_cut_off_gzip_is_never_a_shorter_file(tmp_path):
    rows = [brief(str(i)) for i in range(2000)]
    path = write(tmp_path / "x.jsonl.gz", *rows)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SeqdpoError, match="cut-off gzip"):
        list(read_candidates("one", preference(path)))


@pytest.mark.parametrize("name", ["train.jsonl", "train.jsonl.gz"])
def test_a_line_that_no_memory_would_hold_is_refused_before_it_is_read(tmp_path, monkeypatch, name):
    monkeypatch.setattr("seqdpo.preferences.files._LONGEST_LINE", 1000)
    path = write(tmp_path / name, brief("a"), brief("b" * 10_000))
    with pytest.raises(DataError, match=rf"{name}, line 2: longer than 1,000 bytes; expected one row a line"):
        found(preference(path))


def test_a_text_that_parquet_says_once_for_many_rows_is_held_once(tmp_path):
    """200 rows of one text of 5 MB, in a file of some kB: rows are read one by one, each with a text of its own."""
    text, n = "a" * 5_000_000, 200
    columns = {"prompt": [str(i) for i in range(n)], "rejected": ["no"] * n}
    columns["chosen"] = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), [text])
    pq.write_table(pa.table(columns), tmp_path / "bomb.parquet", compression="zstd", store_schema=False)
    assert (tmp_path / "bomb.parquet").stat().st_size < 20_000
    before = pa.total_allocated_bytes()
    for number, row in enumerate(read_rows(tmp_path / "bomb.parquet")):
        assert (row["prompt"], len(row["chosen"])) == (str(number), 5_000_000)
        assert pa.total_allocated_bytes() - before < 50_000_000  # of 320 MB for the 64 rows of a batch
    assert number == n - 1


def test_json_that_must_be_read_whole_has_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("seqdpo.preferences.json_rows._LONGEST_WHOLE", 1000)
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(b"[\n" * 2000))
    with pytest.raises(DataError, match=r"x.json.gz: more than 1,000 characters that are no JSON lines"):
        found(preference(tmp_path / "x.json.gz"))
