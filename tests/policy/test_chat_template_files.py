"""Chat templates as they lie on disk."""

import json
import shutil
import signal

import pytest

from seqdpo.errors import ConfigError
from seqdpo.policy.load import load_tokenizer

BOM = b"\xef\xbb\xbf"


@pytest.fixture
def folder_with(tiny_model_folder, tmp_path):
    """A copy of the tiny model whose template, in a file of its own, has these bytes before it."""

    def make(before):
        folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
        path = folder / "chat_template.jinja"
        path.write_bytes(before + path.read_bytes())
        return folder

    return make


@pytest.mark.parametrize("given", ["the model's own", "a file", "a tokenizer folder"])
def test_a_byte_order_mark_is_no_part_of_a_template(make_study, tiny_model_folder, folder_with, given):
    folder = folder_with(BOM)
    study = {
        "the model's own": {"model_name_or_path": str(folder)},
        "a file": {"chat_template_path": str(folder / "chat_template.jinja")},
        "a tokenizer folder": {"chat_template_path": str(folder)},
    }[given]
    expected = load_tokenizer(make_study(model_name_or_path=str(tiny_model_folder))).chat_template
    assert load_tokenizer(make_study(**study)).chat_template == expected


def test_no_code_of_a_tokenizer_folder_runs_for_its_template(make_study, folder_with, tmp_path):
    folder = folder_with(b"")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: ...\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    expected = (folder / "chat_template.jinja").read_text()
    assert load_tokenizer(make_study(chat_template_path=str(folder))).chat_template == expected
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", ["one text", [{"name": "default", "template": "one text"}]])
def test_a_template_in_the_configuration_of_a_tokenizer_is_found(make_study, tmp_path, kept):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/tokenizer_config.json").write_text(json.dumps({"chat_template": kept}))
    assert load_tokenizer(make_study(chat_template_path=str(tmp_path / "folder"))).chat_template == "one text"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer that interrupts")
def test_a_template_without_an_end_is_refused(make_study, tmp_path, monkeypatch):
    monkeypatch.setattr("seqdpo.preferences.chat.TEMPLATE_SECONDS", 0.2)
    loop = "{% for a in range(99999) %}"
    (tmp_path / "chat.jinja").write_text(loop * 3 + "a" + "{% endfor %}" * 3)
    with pytest.raises(ConfigError, match=r"chat template: 0.2 seconds for one conversation; .*chat_template_path"):
        load_tokenizer(make_study(chat_template_path=str(tmp_path / "chat.jinja")))
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
