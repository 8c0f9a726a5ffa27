"""One table in every shape that programs write it in."""

import json

import pytest

from seqdpo.errors import DataError
from seqdpo.preferences.json_rows import json_rows

ROWS = [{"prompt": f"p{i}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(3)]
TALK = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
TALKS = [{"chosen": TALK, "rejected": TALK}, {"chosen": TALK[:1], "rejected": TALK}]


def by_column(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def labelled(rows):
    return {name: {str(i): row[name] for i, row in enumerate(rows)} for name in rows[0]}


def split(rows):
    return {"columns": list(rows[0]), "index": list(range(len(rows))), "data": [list(row.values()) for row in rows]}


def read(text):
    return list(json_rows(text.splitlines(keepends=True), "x.json"))


SHAPES = {
    "lines": lambda rows: "\n\n".join(json.dumps(row) for row in rows),
    "list": json.dumps,
    "indented list": lambda rows: json.dumps(rows, indent=1),
    "indented objects": lambda rows: "\n".join(json.dumps(row, indent=1) for row in rows),
    "objects on one line": lambda rows: " ".join(json.dumps(row) for row in rows),
    "under a key": lambda rows: json.dumps({"data": rows}),
    "under a key, beside facts": lambda rows: json.dumps({"version": "1.0", "schema": {"fields": []}, "data": rows}),
    "under a key, indented": lambda rows: json.dumps({"anything": rows}, indent=2),
    "columns of lists": lambda rows: json.dumps(by_column(rows)),
    "columns of lists, indented": lambda rows: json.dumps(by_column(rows), indent=2),
    "columns of labels": lambda rows: json.dumps(labelled(rows)),
    "split": lambda rows: json.dumps(split(rows)),
    "index": lambda rows: json.dumps({str(i): row for i, row in enumerate(rows)}),
}


@pytest.mark.parametrize("rows", [ROWS, TALKS, ROWS[:1]], ids=["text", "conversations", "one row"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_same_rows(shape, rows):
    assert read(SHAPES[shape](rows)) == rows


def test_a_single_conversation_on_a_line_is_a_row_and_no_table_of_columns():
    row = {"chosen": TALK, "rejected": TALK}
    assert read(json.dumps(row)) == [row]


def test_a_list_of_objects_inside_a_single_row_is_a_cell():
    row = {"instruction": "p", "completions": [{"response": "a"}, {"response": "b"}]}
    assert read(json.dumps(row)) == [row]


def test_lines_are_read_one_by_one():
    def lines():
        yield '{"a": 1}\n'
        yield '{"a": 2}\n'
        raise AssertionError("read too far")

    rows = json_rows(lines(), "x.jsonl")
    assert next(rows) == {"a": 1}


def test_several_lists_are_named_with_what_to_do():
    with pytest.raises(
        DataError, match=r"x.json: one object with a list of rows under each of 'train', 'test'.*train: "
    ):
        read(json.dumps({"train": ROWS, "test": ROWS}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": \n', r"x.json, line 2: not JSON .*one list of objects.*to_json\(path, orient='records'"),
        ('{"a": 1,\n "b": }\n', "x.json, line 2: not JSON"),
        ('{\n "a": 1\n}\n{\n "a": ]\n}', "x.json, line 5: not JSON"),
        ("[[1], [2]]", r"x.json, row 1: \[1\]; expected an object with named columns"),
        ('"text"', "x.json, row 1: 'text'; expected an object"),
    ],
)
def test_what_is_no_table_is_said(text, message):
    with pytest.raises(DataError, match=message):
        read(text)
