from seqdpo.study.checkpoints import Node, reference_of
from seqdpo.study.file import study_from
from seqdpo.study.tree import stage_tree


def study(**values):
    objectives = {name: {"format": "lab"} for name in "abc"}
    return study_from({"model_name_or_path": "lab", "objectives": objectives, "output_dir": "x"} | values, "s")


def test_orders_that_begin_alike_share_their_stages():
    nodes = stage_tree(study(orders=[["a", "b"], ["a", "c"], ["a"]], placebo=0))
    assert [node.checkpoint for node in nodes] == ["a", "a>b", "a>c"]


def test_all_orders_of_three_objectives_make_fifteen_stages():
    # 3 first stages, 3 x 2 second ones, 3 x 2 x 1 third ones
    assert len(stage_tree(study(placebo=0))) == 3 + 6 + 6


def test_every_seed_has_its_own_tree():
    assert len(stage_tree(study(seeds=[0, 5], placebo=0))) == 2 * 15


def test_control_stages_stand_beside_every_later_stage_and_have_no_children():
    nodes = stage_tree(study(orders=[["a", "b", "c"]], placebo=2))
    assert [node.checkpoint for node in nodes] == [
        "a",
        "a>b",
        "a>b~placebo1",
        "a>b~placebo2",
        "a>b>c",
        "a>b>c~placebo1",
        "a>b>c~placebo2",
    ]
    assert not any(node.parent.placebo for node in nodes if node.parent)


def test_parents_come_before_their_children():
    nodes = stage_tree(study(seeds=[0, 1], placebo=1))
    for place, node in enumerate(nodes):
        assert node.parent is None or node.parent in nodes[:place]


def test_every_node_has_a_folder_of_its_own():
    nodes = stage_tree(study(seeds=[0, 1], placebo=2))
    assert len({node.folder for node in nodes}) == len(nodes)


def test_the_reference_is_the_base_the_previous_stage_or_the_named_one():
    third = Node(0, ("a", "b", "c"))
    assert reference_of(third, "base") is None
    assert reference_of(third, "previous") == Node(0, ("a", "b"))
    assert reference_of(third, "stage:1") == Node(0, ("a",))
    assert reference_of(third, "stage:2") == Node(0, ("a", "b"))


def test_a_stage_up_to_the_named_one_takes_the_base():
    assert reference_of(Node(0, ("a",)), "stage:1") is None
    assert reference_of(Node(0, ("a",)), "previous") is None
    assert reference_of(Node(0, ("a", "b")), "stage:2") is None


def test_a_control_stage_has_the_parent_and_the_reference_of_the_real_one():
    real, placebo = Node(0, ("a", "b")), Node(0, ("a", "b"), 2)
    assert placebo.parent == real.parent
    assert reference_of(placebo, "previous") == reference_of(real, "previous")
