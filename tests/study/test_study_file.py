import pytest
import yaml

from seqdpo.errors import ConfigError, DataError
from seqdpo.layout import RunFiles
from seqdpo.study.config import Study
from seqdpo.study.file import load_study, parse_flags, study_from, study_yaml
from seqdpo.study.settings import SETTINGS
from seqdpo.study.stored import read_study
from seqdpo.study.template import study_template

MINIMAL = {"model_name_or_path": "lab", "setting": "lab-null", "output_dir": "runs/x"}


def study(**values):
    return study_from(MINIMAL | values, "study.yaml")


def refusal(**values):
    with pytest.raises(ConfigError) as caught:
        study(**values)
    return str(caught.value)


def test_every_problem_is_named_at_once_with_the_nearest_key():
    message = refusal(learning_rte=1, beta=-1, dtype="int4")
    assert "3 problems" in message
    assert "learning_rte is not a key of a study. Did you mean 'learning_rate'?" in message
    assert "beta = -1; expected greater than 0" in message
    assert "dtype = 'int4'; expected 'float32' or 'bfloat16'" in message


def test_an_objectives_unknown_key_is_compared_with_the_keys_of_its_format():
    message = refusal(setting=None, objectives={"a": {"format": "hh-rlhf", "subst": "helpful-base"}})
    assert "objectives.a.subst is not a key of an objective of format hh-rlhf. Did you mean 'subset'?" in message
    assert "objectives.a.subset is missing" in message


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"orders": [["first", "third"]]}, "'third' is no objective of this study; expected first, second"),
        ({"orders": [["first", "first"]]}, "expected each objective at most once"),
        ({"orders": [["first"], ["first"]]}, "the same order stands twice"),
        ({"orders": []}, "expected 'all' or at least one list"),
        ({"orders": [[]]}, "at least one"),
        ({"seeds": []}, "seeds = []"),
        ({"seeds": [1, 1]}, "the same seed stands twice"),
        ({"seeds": [-1]}, "expected greater than or equal to 0"),
        ({"reference": "stage:2"}, "no stage comes after it"),
        ({"reference": "stage:0"}, "expected 'base', 'previous' or 'stage:<k>'"),
        ({"reference": "helpful"}, "expected 'base', 'previous' or 'stage:<k>'"),
        ({"warmup_ratio": 0.1, "warmup_steps": 5}, "expected one of them"),
        ({"setting": "hh-rlfh"}, "'hh-rlfh' is unknown; expected one of hh-rlhf"),
        ({"setting": None}, "neither setting nor objectives"),
        ({"objectives": {"other": {"format": "lab"}}}, "expected the same names"),
        ({"objectives": {"a": {"format": "csv"}}, "setting": None}, "objectives.a.format = 'csv'; expected one of"),
        ({"objectives": {"a": {}}, "setting": None}, "objectives.a.format is missing"),
        ({"objectives": {"base": {"format": "lab"}}, "setting": None}, "cannot name an objective"),
        ({"objectives": {"a/b": {"format": "lab"}}, "setting": None}, "cannot name an objective"),
        ({"lora_r": 0}, "lora_r = 0"),
        ({"eval_fraction": 1.0}, "eval_fraction = 1.0; expected less than 1"),
        ({"adapter_mode": "merge"}, "'continue', 'new_on_merged' or 'stack'"),
        ({"placebo": -1}, "placebo = -1"),
        ({"adapter_mode": "new_on_merged", "dtype": "bfloat16"}, "or adapter_mode 'stack'"),
    ],
)
def test_an_impossible_study_is_refused(values, expected):
    assert expected in refusal(**values)


def test_all_orders_of_too_many_objectives_are_refused():
    objectives = {f"o{i}": {"format": "lab"} for i in range(6)}
    assert "List the orders you want" in refusal(setting=None, objectives=objectives)


def test_the_resolved_study_loads_to_an_equal_study():
    resolved = study(seeds=[3, 1], orders=[["second", "first"]], placebo=True, max_eval_pairs=7)
    assert study_from(yaml.safe_load(study_yaml(resolved)), "x") == resolved


def test_a_leading_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    found = study(
        output_dir="~/runs", model_name_or_path="~/model", chat_template_path="~nobody-of-that-name/chat.jinja"
    )
    assert (found.output_dir, found.model_name_or_path) == ("/home/someone/runs", "/home/someone/model")
    assert found.chat_template_path == "~nobody-of-that-name/chat.jinja"


def test_how_keys_go_together_is_looked_at_beside_a_wrong_value():
    message = refusal(dtype="int4", warmup_ratio=0.1, warmup_steps=5)
    assert "2 problems" in message
    assert "warmup_ratio = 0.1 and warmup_steps = 5; expected one of them" in message


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"orders": "first"}, "orders = 'first'; expected 'all' or a list"),
        ({"orders": ["first"]}, "orders.0 = 'first'; expected a list"),
        ({"lora_target_modules": "q_proj"}, "lora_target_modules = 'q_proj'; expected 'all-linear' or a list"),
        ({"lora_target_modules": []}, "lora_target_modules = []; expected at least one"),
    ],
)
def test_a_value_of_one_kind_or_another_is_one_problem(values, expected):
    message = refusal(**values)
    assert expected in message
    assert "problems" not in message


def test_placebo_true_is_one_control_stage():
    assert study(placebo=True).placebo == 1
    assert study(placebo=False).placebo == 0


def test_an_objectives_limit_goes_before_the_studys():
    resolved = study(
        setting=None, max_eval_pairs=5, objectives={"a": {"format": "lab", "max_eval_pairs": 3}, "b": {"format": "lab"}}
    )
    assert [resolved.eval_limit(name) for name in "ab"] == [3, 5]


def test_flags_are_laid_over_the_file(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    flags = ["--learning-rate", "1e-5", "--lora_r=4", "--orders", "[[second, first]]", "--objectives", "{}"]
    loaded = load_study(path, flags)
    assert (loaded.learning_rate, loaded.lora_r, loaded.orders) == (1e-5, 4, [["second", "first"]])


def test_a_dotted_flag_reaches_into_an_objective(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | {"setting": None, "objectives": {"a-b": {"format": "lab"}}}))
    assert load_study(path, ["--objectives.a-b.n-pairs", "50"]).objectives["a-b"].n_pairs == 50


@pytest.mark.parametrize(
    ("flags", "expected"),
    [(["--beta"], "--beta has no value"), (["beta", "1"], "'beta' is not expected here"), (["--beta", "["], "YAML")],
)
def test_a_flag_that_cannot_be_read_is_refused(flags, expected):
    with pytest.raises(ConfigError, match=expected):
        parse_flags(flags)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"beta: 1\nbeta: 2\n", "line 2, column 1: the key 'beta' stands twice"),
        (b"beta: [1\n", "line 2"),
        (b"- a\n- b\n", "holds a list"),
        (b"", "holds nothing"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_study_is_refused_with_its_place(tmp_path, content, expected):
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        load_study(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_template_of_every_setting_is_a_valid_study_with_every_key(setting):
    text = study_template(setting)
    loaded = study_from(yaml.safe_load(text), setting)
    assert loaded.setting == setting
    assert loaded.objectives == SETTINGS[setting].objectives
    named = {line.split(":")[0].lstrip("# ") for line in text.splitlines()}
    assert set(Study.model_fields) <= named


def test_the_templates_of_the_public_datasets_hold_the_reference_configuration():
    for setting in ("hh-rlhf", "helpsteer2", "pku-saferlhf", "ultrafeedback"):
        loaded = study_from(yaml.safe_load(study_template(setting)), setting)
        assert loaded.model_name_or_path == "meta-llama/Llama-3.1-8B-Instruct"
        assert (loaded.lora_r, loaded.lora_target_modules) == (32, "all-linear")
        assert (loaded.beta, loaded.learning_rate, loaded.num_train_epochs) == (0.3, 5e-5, 1)
        assert loaded.reference == "base"
        assert len(loaded.all_orders()) == 2


@pytest.mark.parametrize("read", ["a study", "a run's study"])
def test_aliases_of_aliases_are_refused_before_they_fill_the_memory(tmp_path, read):
    lines = ["a: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    path = tmp_path / "study.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises((ConfigError, DataError), match=r"study.yaml: holds more than 1,000,000 values"):
        load_study(path) if read == "a study" else read_study(RunFiles(tmp_path))
