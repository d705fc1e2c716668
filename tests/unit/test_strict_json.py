"""JSON from strangers."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import strict_json
from supervisor.errors import InvalidJson
from supervisor.strict_json import MAX_DEPTH, MAX_TOKENS

REFUSED = {
    "nothing": (b"", "not JSON: Expecting value"),
    "blank": (b" \n", "not JSON: Expecting value"),
    "not a number": (b"NaN", "not JSON: NaN is not a JSON value"),
    "infinity": (b"[Infinity]", "not JSON: Infinity is not a JSON value"),
    "negative infinity": (b'{"a": -Infinity}', "not JSON: -Infinity is not a JSON value"),
    "invalid UTF-8": (b'"ab\xff"', "not UTF-8 at byte 3"),
    "overlong UTF-8": (b'"\xc0\x80"', "not UTF-8 at byte 1"),
    "surrogate in UTF-8": (b'"\xed\xa0\x80"', "not UTF-8 at byte 1"),
    "UTF-16": ('"a"'.encode("utf-16-le"), "not JSON"),
    "byte order mark": (b"\xef\xbb\xbf{}", "not JSON: Unexpected UTF-8 BOM"),
    "raw NUL": (b'"a\x00b"', "not JSON: Invalid control character"),
    "NUL after it": (b"{}\x00", "not JSON: Extra data"),
    "two documents": (b"{}{}", "not JSON: Extra data"),
    "end in the middle": (b'{"a": [1, 2', "not JSON"),
    "single quotes": (b"{'a': 1}", "not JSON"),
    "trailing comma": (b"[1,]", "not JSON"),
    "leading zero": (b"01", "not JSON"),
    "number of 5000 digits": (b"1" * 5000, "not JSON"),
    "deeper than the limit": (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested deeper than 100 levels"),
    "objects deeper than the limit": (b'{"a":' * 101 + b"1" + b"}" * 101, "nested deeper than 100 levels"),
    "deeper than Python's parser": (b"[" * 100_000 + b"]" * 100_000, "nested deeper than 100 levels"),
    "deep and broken": (b"[" * 100_000, "nested deeper than 100 levels"),
    "400,000 levels": (b"[" * 400_000, "more than 200000 values"),
    "too many values": (b"[" + b"0," * MAX_TOKENS + b"0]", "more than 200000 values"),
    "too many empty containers": (b"[" + b"{} " * (MAX_TOKENS + 1) + b"]", "more than 200000 values"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_parse_what_is_no_json_raises_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidJson) as caught:
        strict_json.parse(data)
    assert str(caught.value).startswith(reason)


ACCEPTED = {
    "at the depth limit": (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, None),
    "scalar at the depth limit": (b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH, None),
    "brackets in a text": (b'"' + b"[" * 5000 + b'"', "[" * 5000),
    "at the limit of values": (b"[" + b"0," * (MAX_TOKENS - 1) + b"0]", [0] * MAX_TOKENS),
    "commas in a text": (b'"' + b"1,2,3,4," * MAX_TOKENS + b'"', "1,2,3,4," * MAX_TOKENS),
    "commas after a quote in a text": (b'["\\"' + b"," * MAX_TOKENS + b'\\\\", 1]', ['"' + "," * MAX_TOKENS + "\\", 1]),
    "duplicate keys: the last one stands": (b'{"a": 1, "a": 2}', {"a": 2}),
    "escaped NUL": (rb'"a\u0000b"', "a\0b"),
    "surrogate pair": (rb'"\ud83d\ude00"', "\N{GRINNING FACE}"),
    "white space around": (b" \r\n\t{} \n", {}),
    "large integer": (b"1" * 4000, int("1" * 4000)),
}


@pytest.mark.parametrize(("data", "value"), ACCEPTED.values(), ids=ACCEPTED)
def test_parse_json_gives_its_value(data: bytes, value: Any) -> None:
    parsed = strict_json.parse(data)
    assert value is None or parsed == value


UNWRITABLE = {
    "number beyond all floats": (b"[1e999]", "a number is out of range"),
    "negative number beyond all floats": (b'{"a": -1e999}', "a number is out of range"),
    "high half of a pair": (rb'"\ud83d"', "a text holds half of a surrogate pair"),
    "low half of a pair as a key": (rb'{"\ude00": 1}', "a text holds half of a surrogate pair"),
}


@pytest.mark.parametrize(("data", "reason"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_dump_what_no_reader_can_take_raises(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidJson, match=f"^{reason}"):
        strict_json.dump(strict_json.parse(data))


def test_dump_value_is_compact_and_not_escaped() -> None:
    assert strict_json.dump({"a": [1, "é\0"], "b": None}) == '{"a":[1,"é\\u0000"],"b":null}'


def test_parse_hundreds_of_thousands_of_quotes_takes_no_quadratic_time() -> None:
    """With a search that starts again at every quote these would take hours."""
    for unit in (b'"', b'\\"', b'",', b'"\\'):
        with pytest.raises(InvalidJson):
            strict_json.parse(unit * 1_000_000 + b"," * MAX_TOKENS)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.booleans())
def test_round_trip_any_json_value_stays_equal(value: Any, escaped: bool) -> None:
    text = strict_json.dump(strict_json.parse(json.dumps(value, ensure_ascii=escaped).encode()))
    assert json.loads(text.encode().decode("utf-8")) == value


ALMOST_JSON = st.text(alphabet='[]{}",:\\ue0123456789aNI-\n')


@given(st.binary() | ALMOST_JSON.map(str.encode))
def test_parse_any_bytes_gives_a_writable_value_or_invalid_json(data: bytes) -> None:
    try:
        text = strict_json.dump(strict_json.parse(data))
    except InvalidJson:
        return
    assert strict_json.dump(strict_json.parse(text.encode())) == text
