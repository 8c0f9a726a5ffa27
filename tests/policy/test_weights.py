"""The weight files of a model: what is wrong with them is said without reading a weight."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from seqdpo.errors import ConfigError
from seqdpo.policy.load import check_weights, load_config, load_model, model_hash
from seqdpo.policy.weights import weight_files

METHODS = ["bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors", "mxfp4"]


@pytest.fixture
def model(tiny_model_folder, tmp_path, make_study):
    """A copy of the tiny model; `model(key=value)` also changes its config.json."""

    def copy(**changes):
        folder = tmp_path / "model"
        if not folder.is_dir():
            shutil.copytree(tiny_model_folder, folder)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return folder, make_study(model_name_or_path=str(folder))

    return copy


@pytest.mark.parametrize("method", METHODS)
def test_quantised_weights_are_refused_by_the_name_of_the_method(method, model):
    _, study = model(quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(ConfigError, match=rf"its weights are quantised \({method}\).* Give the unquantised model"):
        load_config(study)


def test_quantised_weights_are_known_without_a_method_too(model):
    folder, study = model(quantization_config={"load_in_4bit": True})
    with pytest.raises(ConfigError, match=r"quantised \(load_in_4bit\)"):
        load_config(study)
    model(quantization_config=None)
    (folder / "quantize_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"quantised \(gptq\)"):
        load_config(study)


def test_arguments_of_a_trainer_are_no_weights(model):
    folder, study = model()
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(b"anything")
    with pytest.raises(ConfigError, match="no weights"):
        check_weights(study)


def test_whole_weights_pass_and_only_they_are_hashed(model):
    folder, study = model()
    check_weights(study)
    before = model_hash(study)
    (folder / "training_args.bin").write_bytes(b"anything")
    assert weight_files(folder) == [folder / "model.safetensors"]
    assert model_hash(study) == before


def test_shards_that_an_index_names_and_that_are_not_there_are_named(model):
    folder, study = model()
    index = {"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"names two.safetensors, not there \(1 of 2 files\)"):
        check_weights(study)


def test_tensors_of_another_model_are_found_without_loading(model):
    folder, study = model(intermediate_size=96)
    with pytest.raises(
        ConfigError, match=r"6 tensors of another shape: .*\(64, 128\) where config.json wants \(64, 96\)"
    ):
        check_weights(study)
    model(intermediate_size=128)
    tensors = {f"other.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="tensors missing"):
        check_weights(study)


def test_weights_in_a_torch_file_alone_are_read(model):
    import torch

    folder, study = model()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    check_weights(study)
    assert load_model(study).num_parameters() > 0
