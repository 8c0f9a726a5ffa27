"""Rows as text for other programs: JSON lines, in UTF-8 and without loss, and CSV, which a spreadsheet does not run."""

import io
import json
import re
from collections.abc import Iterator
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

TextFormat = Literal["jsonl", "csv"]
ROWS_AT_ONCE = 10_000
_FORMULA = r"\A[=+\-@\t\r]"


def row_texts(rows: pa.Table, form: TextFormat) -> Iterator[str]:
    """The rows in pieces of many lines; undefined numbers are null, in CSV an empty cell without quotes."""
    finite = _finite(rows)
    for start in range(0, max(rows.num_rows, 1), ROWS_AT_ONCE):
        some = finite.slice(start, ROWS_AT_ONCE)
        yield _json_lines(some) if form == "jsonl" else _csv(some, header=start == 0)


def _json_lines(rows: pa.Table) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows.to_pylist())


def _csv(rows: pa.Table, header: bool) -> str:
    """A list of messages is one cell of JSON."""
    for i, field in enumerate(rows.schema):
        if pa.types.is_nested(field.type):
            cells = [json.dumps(value, ensure_ascii=False) for value in rows[i].to_pylist()]
            rows = rows.set_column(i, field.name, pa.array(cells, pa.string()))
        elif _is_text(field.type):
            rows = rows.set_column(i, field.name, _marked(rows[i]))
    written = io.BytesIO()
    csv.write_csv(rows, written, csv.WriteOptions(include_header=header))
    return written.getvalue().decode("utf-8")


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def marked(text: str) -> str:
    """A text with an apostrophe before it if a spreadsheet would take it for a formula and run it."""
    return f"'{text}" if re.match(_FORMULA, text) else text


def _marked(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts that a spreadsheet would take for a formula and run, with an apostrophe before them."""
    texts = texts.cast(pa.large_string())
    marked = pc.binary_join_element_wise(pa.scalar("'", pa.large_string()), texts, pa.scalar("", pa.large_string()))
    return pc.if_else(pc.match_substring_regex(texts, _FORMULA), marked, texts)


def _finite(rows: pa.Table) -> pa.Table:
    """NaN and infinity, which JSON does not have, as null."""
    for i, field in enumerate(rows.schema):
        if pa.types.is_floating(field.type):
            rows = rows.set_column(i, field.name, pc.if_else(pc.is_finite(rows[i]), rows[i], None))
    return rows
