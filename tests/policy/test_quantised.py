"""A base in 4 or 8 bits: the numbers and gradients of the weights that its bits stand for; what is refused."""

import shutil
import signal
import sys
from importlib.util import find_spec

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from seqdpo.errors import ConfigError
from seqdpo.measure.movement import weight_norms
from seqdpo.policy.adapters import trainable_policy
from seqdpo.policy.engine import choose_engine
from seqdpo.policy.load import check_weights, load_model, model_hash
from seqdpo.policy.logps import response_logps
from seqdpo.policy.quantised import is_quantised, plain_weight
from seqdpo.policy.trial import try_adapter
from seqdpo.study.audit import Audit

BITS = ("load_in_4bit", "load_in_8bit")
needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="the extra quantised is not installed"
)
#: Of bitsandbytes and PEFT among themselves.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def plain_copy(model, make_study):
    """The model in float32 with the weights that the bits stand for: the oracle."""
    oracle = load_model(make_study())
    for name, module in model.named_modules():
        if is_quantised(module):
            oracle.get_submodule(name).weight.data = plain_weight(module).float()
    return oracle


def scores_and_gradients(model, study, pairs, training):
    """Of a fresh adapter that was moved, by its parameters' names."""
    generator = torch.Generator().manual_seed(3)
    with trainable_policy(model, study, None, seed=1) as policy:
        parameters = {name: p for name, p in policy.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for parameter in parameters.values():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        with torch.inference_mode():
            response_logps(policy.eval(), pairs)  # a pass without gradients must not spoil those that follow
        logps = response_logps(policy.train(training), pairs)
        gradients = torch.autograd.grad((logps.chosen - logps.rejected).sum(), list(parameters.values()))
    return torch.cat(logps).detach(), dict(zip(parameters, gradients, strict=True))


@needs_bitsandbytes
@pytest.mark.parametrize("training", [True, False])
def test_nf4_has_the_scores_and_gradients_of_the_weights_it_stands_for(training, make_study, random_pairs):
    study, pairs = make_study(load_in_4bit=True), random_pairs(4, seed=0)
    model = load_model(study)
    oracle = plain_copy(model, make_study)
    assert choose_engine(model, 40).startswith("packed trees")
    choose_engine(oracle, 40)
    found, gradients = scores_and_gradients(model, study, pairs, training)
    expected, true_gradients = scores_and_gradients(oracle, study, pairs, training)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    for name, gradient in true_gradients.items():
        norm = float(gradient.norm())
        assert float((gradients[name] - gradient).norm()) <= 1e-4 * norm, name
    assert weight_norms(model) == pytest.approx(weight_norms(oracle), rel=1e-6)
    plain = response_logps(load_model(make_study()), pairs)
    assert not torch.allclose(found, torch.cat(plain), rtol=1e-3)  # the rounding is there


@needs_bitsandbytes
def test_int8_rounds_activations_too_and_so_comes_near_the_weights_it_stands_for(make_study, random_pairs):
    """LLM.int8 reads each row of activations in 8 bits, 0.4% of its largest number: scores within 2% of the oracle's,
    gradients along it."""
    study, pairs = make_study(load_in_8bit=True), random_pairs(4, seed=0)
    model = load_model(study)
    oracle = plain_copy(model, make_study)
    found, gradients = scores_and_gradients(model, study, pairs, training=True)
    expected, true_gradients = scores_and_gradients(oracle, study, pairs, training=True)
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=0)
    ours, true = (torch.cat([g.flatten() for g in of.values()]) for of in (gradients, true_gradients))
    assert torch.nn.functional.cosine_similarity(ours, true, dim=0) > 0.95


@needs_bitsandbytes
@pytest.mark.parametrize("key", BITS)
@pytest.mark.parametrize("mode", ["continue", "stack"])
def test_the_trial_of_the_adapter_passes(key, mode, make_study):
    study = make_study(**{key: True}, adapter_mode=mode, dtype="bfloat16")
    model = load_model(study)
    choose_engine(model, 40)
    assert try_adapter(model, study, study).idle == 0


@needs_bitsandbytes
@pytest.mark.parametrize("key", BITS)
def test_a_weight_that_is_no_number_is_found_behind_its_bits(key, make_study, tiny_model_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name][3, 5] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=rf"{name}: not all numbers in it are finite"):
        load_model(make_study(model_name_or_path=str(folder), **{key: True}))


@needs_bitsandbytes
def test_a_stage_on_nf4_goes_on_after_a_signal_to_the_same_bytes(make_study, tmp_path, monkeypatch, base_logps_cache):
    from seqdpo.files import read_sealed
    from seqdpo.runner import stage as node_stage
    from seqdpo.runner.board import Board
    from seqdpo.runner.study import run_study

    objectives = {
        "helpful": {"format": "lab", "n_pairs": 40},
        "harmless": {"format": "lab", "angle": 90, "n_pairs": 40},
    }
    keys = {
        "model_name_or_path": "lab",
        "load_in_4bit": True,
        "objectives": objectives,
        "orders": [["helpful", "harmless"]],
        "placebo": 0,
        "eval_fraction": 0.5,
        "mechanism_pairs": 0,
        "gradient_trace_points": 0,
        "per_device_train_batch_size": 4,
    }

    class Silent(Board):
        def __init__(self): ...
        def __getattribute__(self, name):
            return lambda *arguments: None

    straight = run_study(make_study(**keys, output_dir=str(tmp_path / "straight")), Silent())
    on_step = node_stage._on_step

    def interrupted(bench, step):
        on_step(bench, step)
        if step.step == 3:
            monkeypatch.setattr(node_stage, "_on_step", on_step)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(node_stage, "_on_step", interrupted)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    study = make_study(**keys, output_dir=str(tmp_path / "run"))
    with pytest.raises(KeyboardInterrupt):
        run_study(study, Silent())
    folder = run_study(study, Silent())
    for name in ("scores.parquet", "results.json"):
        assert (folder.root / name).read_bytes() == (straight.root / name).read_bytes()
    manifest = read_sealed(folder.manifest)
    assert manifest["identity"]["model"].endswith(" in NF4")
    assert "base in NF4 by bitsandbytes" in manifest["engine"]
    with pytest.raises(ConfigError, match=r"load_in_4bit = False here; True there"):
        run_study(study.model_copy(update={"load_in_4bit": False}), Silent())


@pytest.mark.parametrize("key", BITS)
def test_without_its_library_a_key_names_the_extra_before_anything_loads(key, make_study, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=rf"{key} = True: bitsandbytes .*pip install 'seqdpo\[quantised\]'"):
        check_weights(make_study(**{key: True}))


def test_what_cannot_be_done_with_rounded_weights_is_refused_by_name(make_study, tiny_model_folder):
    with pytest.raises(ValidationError, match=r"load_in_4bit = True and load_in_8bit = True; expected one"):
        make_study(load_in_4bit=True, load_in_8bit=True)
    with pytest.raises(ValidationError, match=r"'new_on_merged' with load_in_8bit = True: merging would round"):
        make_study(load_in_8bit=True, adapter_mode="new_on_merged")
    values = {"model_name_or_path": str(tiny_model_folder), "checkpoints": {"helpful": "a"}, "load_in_4bit": True}
    with pytest.raises(ValidationError, match=r"load_in_4bit = True: an audit scores on the base as it is"):
        Audit.model_validate(values | {"objectives": {"helpful": {"format": "lab"}}})


def test_the_bits_are_part_of_the_name_of_the_base(make_study):
    plain = model_hash(make_study())
    assert model_hash(make_study(load_in_4bit=True)) == f"{plain} in NF4"
    assert model_hash(make_study(load_in_8bit=True)) == f"{plain} in LLM.int8"
