"""Chat templates as they lie on disk."""

import shutil

import pytest

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
