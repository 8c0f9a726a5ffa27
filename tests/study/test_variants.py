"""Variants in a study: their names, the stages they add, what is laid over what, and what is refused."""

import pytest
import yaml

from seqdpo.errors import ConfigError
from seqdpo.study.checkpoints import Checkpoint, Node, order_name, parse_order, reference_of, variant_of
from seqdpo.study.file import study_from, study_yaml
from seqdpo.study.growth import grown
from seqdpo.study.stored import differing_keys, joined
from seqdpo.study.tree import find_node, needs, stage_tree, tracks
from seqdpo.study.variants import STANDARD, laid_over, variant_at


def study(**values):
    objectives = {name: {"format": "lab"} for name in "abc"}
    fixed = {"model_name_or_path": "lab", "objectives": objectives, "orders": [["a", "b"]], "placebo": 1}
    return study_from(fixed | {"output_dir": "x"} | values, "s")


def refusal(**values):
    with pytest.raises(ConfigError) as caught:
        study(**values)
    return str(caught.value)


# names


@pytest.mark.parametrize(
    ("name", "path", "placebo", "variant", "pieces"),
    [
        ("a>b@replay-0.1", ("a", "b"), 0, "replay-0.1", ("a>", "b", "@replay-0.1")),
        ("a>b@x~placebo2", ("a", "b"), 2, "x", ("a>", "b", "@x", "~placebo2")),
        ("a+b", ("a+b",), 0, "", ("a+b",)),
    ],
)
def test_a_name_with_a_variant_is_read_and_written(name, path, placebo, variant, pieces):
    found = Checkpoint.parse(name)
    assert found == (path, placebo, variant)
    assert "".join(found.pieces) == found.name == name
    assert found.pieces == pieces


@pytest.mark.parametrize("name", ["a@x", "a>b@", "base@x"])
def test_no_name_of_a_variants_checkpoint(name):
    with pytest.raises(ValueError, match="is no name of a checkpoint"):
        Checkpoint.parse(name)


def test_an_order_is_named_with_its_variant():
    assert order_name(("a", "b"), "x") == "a>b@x"
    assert (parse_order("a>b@x"), variant_of("a>b@x"), variant_of("a>b")) == (("a", "b"), "x", "")


def test_all_variants_share_the_first_stage():
    third = Node(0, ("a", "b", "c"), 2, "x")
    assert third.parent == Node(0, ("a", "b"), 0, "x")
    assert third.parent.parent == Node(0, ("a",))
    assert third.plain == Node(0, ("a", "b", "c"), 2)
    assert reference_of(third, "stage:1") == Node(0, ("a",))
    assert reference_of(third, "stage:2") == reference_of(third, "spo") == Node(0, ("a", "b"), 0, "x")
    assert third.folder == "seed0.a.b.placebo2-c@x"


# the tree


def test_a_variant_has_its_own_later_stages_with_control_stages_of_their_own():
    nodes = stage_tree(study(orders=[["a", "b", "c"], ["b"]], variants={"x": {"beta": 0.1}}))
    assert [node.checkpoint for node in nodes] == [
        *("a", "a>b", "a>b~placebo1", "a>b>c", "a>b>c~placebo1", "b"),
        *("a>b@x", "a>b@x~placebo1", "a>b>c@x", "a>b>c@x~placebo1"),
    ]


def test_every_stage_comes_after_all_that_it_needs_and_has_a_folder_of_its_own():
    some = study(orders="all", seeds=[0, 1], variants="standard")
    nodes = stage_tree(some)
    for place, node in enumerate(nodes):
        assert all(other is None or other in nodes[:place] for other in needs(node, some.variants))
    assert len({node.folder for node in nodes}) == len(nodes)
    # 15 plain stages and 12 control stages; all three at once; 9 variants of the 12 later stages and their controls
    assert len(nodes) == 2 * (15 + 12 + 1 + 9 * (12 + 12))


def test_what_is_made_of_a_plain_stage_needs_that_one_too():
    variants = study(variants={"half": {"interpolate": 0.5}}).variants
    assert needs(Node(0, ("a", "b"), 1, "half"), variants) == [Node(0, ("a",)), Node(0, ("a", "b"), 1)]


def test_one_joint_stage_stands_for_all_orders_of_its_objectives():
    found = tracks(study(orders=[["a", "b"], ["b", "a"], ["c"]], variants={"ceiling": {"joint": True}}))
    assert found == [(("a", "b"), ""), (("b", "a"), ""), (("c",), ""), (("a+b",), "")]
    assert Node(0, ("a+b",)).objectives == ("a", "b")


def test_a_stage_is_found_by_the_name_of_its_checkpoint_or_folder():
    some = study(variants={"x": {"beta": 0.1}})
    assert find_node(some, "a/b@x~placebo1") == find_node(some, "seed0.a.placebo1-b@x") == Node(0, ("a", "b"), 1, "x")


# the keys


def test_keys_of_a_variant_lie_over_the_studys():
    some = study(beta=0.2, variants={"x": {"beta": 0.1, "replay": 0.3}})
    node = Node(0, ("a", "b"), 0, "x")
    assert laid_over(some, node, some.variants).beta == 0.1
    assert laid_over(some, node, some.variants).learning_rate == some.learning_rate
    assert laid_over(some, node.parent, some.variants) is some
    assert (variant_at(node, some.variants).replay, variant_at(node.parent, some.variants).replay) == (0.3, 0)


def test_a_list_of_values_is_a_variant_for_each():
    some = study(variants={"x": {"replay": [0.05, 0.1]}, "y": {"beta": [0.1, 1], "learning_rate": [1e-6]}})
    assert list(some.variants) == ["x-0.05", "x-0.1", "y-0.1-1e-06", "y-1-1e-06"]
    assert some.variants["x-0.1"].replay == 0.1
    assert (some.variants["y-1-1e-06"].beta, some.variants["y-1-1e-06"].learning_rate) == (1, 1e-6)


def test_standard_is_a_list_that_a_study_file_may_hold():
    some = study(variants="standard")
    assert some.variants == study(variants=STANDARD).variants
    assert study_from(yaml.safe_load(study_yaml(some)), "s") == some


def test_a_study_without_variants_is_written_as_it_always_was():
    assert "variants" not in study_yaml(study())


@pytest.mark.parametrize(
    ("variants", "expected"),
    [
        ({"x": {"replya": 0.1}}, "variants.x.replya is not a key of a variant. Did you mean 'replay'?"),
        ({"x": {"replay": 1}}, "variants.x.replay = 1; expected less than 1"),
        ({"x": {"replay": [0.1, 1]}}, "variants.x-1.replay = 1; expected less than 1"),
        ({"x": {"reference": "spoo"}}, "expected 'base', 'previous', 'spo' or 'stage:<k>'"),
        ({"x": {"reference": "stage:2"}}, "variants.x.reference = 'stage:2', but no stage comes after it"),
        ({"x": {}}, "variants.x: no key; expected one at least"),
        ({"x": None}, "variants.x"),
        ({"plain": {"beta": 1}}, "'plain' cannot name a variant"),
        ({"a>b": {"beta": 1}}, "'a>b' cannot name a variant"),
        ({"x.": {"beta": 1}}, "'x.' cannot name a variant"),
        ({"x": {"beta": 1}, "X": {"beta": 2}}, "'x' and 'X' differ in capitals alone"),
        ({"x": {"interpolate": 0.5, "beta": 1}}, "interpolate with beta; expected interpolate alone"),
        ({"x": {"joint": True}, "y": {"joint": True}}, "joint in x and y; expected it once"),
        ({"x": {"spo_weight": 1}}, "spo_weight without reference: spo"),
        ({"x": {"replay_added": True}}, "replay_added without replay"),
        ({"x": {"label_smoothing": 0.1}}, "variants.x: label_smoothing = 0.1 with loss_type = 'sigmoid'"),
        ("standrd", "variants = 'standrd'"),
    ],
)
def test_an_impossible_variant_is_refused(variants, expected):
    assert expected in refusal(variants=variants)


def test_a_variants_keys_are_looked_at_over_the_studys():
    some = study(loss_type="robust", label_smoothing=0.2, variants={"x": {"label_smoothing": 0.1}})
    assert laid_over(some, Node(0, ("a", "b"), 0, "x"), some.variants).label_smoothing == 0.1
    assert "'x' is for later stages, and no order has one" in refusal(orders=[["a"]], variants={"x": {"beta": 1}})


def test_what_reads_earlier_pairs_or_begins_at_the_base_does_not_go_with_an_adapter_from_elsewhere():
    given = {"adapter_name_or_path": "somewhere", "learned": "a"}
    assert "reads training pairs of the objective" in refusal(variants={"x": {"replay": 0.1}}, **given)
    assert "joint trains all objectives from the base" in refusal(variants={"x": {"joint": True}}, **given)
    assert study(variants={"x": {"reference": "previous"}}, **given).variants


# more of them


def test_a_run_may_get_more_variants_and_never_fewer():
    had, asked = study(variants={"x": {"beta": 0.1}}), study(variants={"y": {"beta": 0.2}})
    assert list(grown(asked, had).variants) == list(joined(had, asked).variants) == ["x", "y"]
    assert list(differing_keys(had, asked)) == []


def test_a_variant_of_the_same_name_must_be_the_same():
    had, asked = study(variants={"x": {"beta": 0.1}}), study(variants={"x": {"beta": 0.2}})
    assert list(differing_keys(asked, had)) == [("variants.x.beta", 0.2, 0.1)]
