"""How far adapters of every plain kind moved, against the weights that PEFT itself merges."""

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from audited import peft_model
from seqdpo.measure.movement import joined_factors, movement_between

PATTERNS = {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"layers.0.self_attn.q_proj": 32}}


def weights(model):
    return {name: module.weight.detach().double().numpy() for name, module in model.named_modules() if "proj" in name}


@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, PATTERNS], ids=["LoRA", "rsLoRA", "patterns"])
def test_factors_of_a_merged_chain_are_the_change_that_peft_merges(config, make_adapter, tiny_model_folder):
    chain = [make_adapter("first", **config), make_adapter("second", r=2)]
    base, merged = weights(peft_model(tiny_model_folder)), weights(peft_model(tiny_model_folder, *chain))
    factors = joined_factors(chain)
    assert factors.keys() == base.keys()
    for name, own in factors.items():  # float32 weights of size 0.2
        np.testing.assert_allclose(own.b @ own.a, merged[name] - base[name], atol=1e-6)


def test_a_module_that_the_later_adapter_does_not_have_moved_back(make_adapter):
    both = joined_factors([make_adapter("first", target_modules=["q_proj", "v_proj"])])
    one = joined_factors([make_adapter("second", target_modules=["q_proj"])])
    rows = {row["module"]: row for row in movement_between(both, one, {}).to_pylist()}
    gone = "model.layers.0.self_attn.v_proj"
    assert rows[gone]["new_norm"] == 0
    assert rows[gone]["update_norm"] == pytest.approx(rows[gone]["previous_norm"])
    assert rows[gone]["cosine"] == pytest.approx(-1)


def test_movement_is_written_where_both_checkpoints_are_plain_lora_on_the_same_weights(audit, make_adapter):
    first, second = make_adapter("first"), make_adapter("second")
    dora = make_adapter("dora", use_dora=True)
    on_first = {"path": str(second), "on": "helpful"}
    folder = audit({"helpful": first, "helpful>harmless": on_first, "harmless": dora, "harmless>helpful": second})
    table = pq.read_table(folder.movement)
    assert set(table["checkpoint"].to_pylist()) == {"helpful", "helpful>harmless"}
    whole = table.filter((pc.field("module") == "(all)") & (pc.field("checkpoint") == "helpful>harmless"))
    own = movement_between({}, joined_factors([second]), {}).to_pylist()[-1]
    assert whole["update_norm"][0].as_py() == pytest.approx(own["update_norm"])  # the update is the second adapter
