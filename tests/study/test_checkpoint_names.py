"""The names of checkpoints: parsed, written, and cut into pieces."""

import pytest

from seqdpo.study.checkpoints import Checkpoint


@pytest.mark.parametrize(
    ("name", "path", "placebo", "pieces"),
    [
        ("base", (), 0, ("base",)),
        ("a", ("a",), 0, ("a",)),
        ("a>b>c", ("a", "b", "c"), 0, ("a>", "b>", "c")),
        ("a>b~placebo12", ("a", "b"), 12, ("a>", "b", "~placebo12")),
    ],
)
def test_a_name_is_read_and_written(name, path, placebo, pieces):
    found = Checkpoint.parse(name)
    assert (found.path, found.placebo) == (path, placebo)
    assert found.pieces == pieces
    assert "".join(found.pieces) == found.name == name


def test_what_was_trained_since_an_earlier_checkpoint():
    assert Checkpoint.parse("a>b>c").since(Checkpoint.parse("a")) == ("b", "c")
    assert Checkpoint.parse("a").since(Checkpoint.parse("base")) == ("a",)


@pytest.mark.parametrize("name", ["a~placebo", "a~placebo0", "a~placebox"])
def test_no_name_of_a_control_stage(name):
    with pytest.raises(ValueError, match="is no name of a checkpoint"):
        Checkpoint.parse(name)
