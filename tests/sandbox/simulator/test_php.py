"""Forms and JSON as PHP has them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sandbox.simulator import php
from gateway.sandbox.simulator.php import RawJson, json_encode


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"a=1&b=2", {"a": "1", "b": "2"}),
        (b"a=1&a=2", {"a": "2"}),
        (b"a", {"a": ""}),
        (b"a=", {"a": ""}),
        (b"a=b=c", {"a": "b=c"}),
        (b"", {}),
        (b"&&a=1&", {"a": "1"}),
        (b"=1", {}),
        (b"a=x+y%2Bz", {"a": "x y+z"}),
        (b"+function=x", {"function": "x"}),
        (b"%20%20api-key=x", {"api-key": "x"}),
        (b"function%00x=1", {"function": "1"}),
        (b"a.b=1&c+d=2", {"a_b": "1", "c_d": "2"}),
        (b"date_range[0]=x&date_range%5B1%5D=y", {"date_range": {"0": "x", "1": "y"}}),
        (b"a[]=x&a[]=y", {"a": {"0": "x", "1": "y"}}),
        (b"a=1&a[k]=2", {"a": {"k": "2"}}),
        (b"a[k]=2&a=1", {"a": "1"}),
        (b"a[k=1", {"a_k": "1"}),
        (b"a%00[0]=1", {"a": "1"}),
        (b"[0]=1", {}),
        (b"a=%00b", {"a": "\0b"}),
        (b"a=%e9", {"a": "\udce9"}),
    ],
)
def test_a_form_is_read_as_php_reads_it(body, fields):
    assert php.form(php.form_pairs(body)) == fields


def test_pairs_keep_order_names_and_repetitions():
    assert php.form_pairs(b"+a=1&b=&+a=2") == [(" a", "1"), ("b", ""), (" a", "2")]


def test_a_map_where_a_text_is_wanted_is_the_text_array():
    assert php.text({"price": {"0": "1"}}, "price") == "Array"
    assert php.text({}, "price", "none") == "none"


@given(st.binary())
def test_any_bytes_are_a_form(body):
    for name, value in php.form(php.form_pairs(body)).items():
        assert name
        assert isinstance(value, str | dict)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"url": "https://a/b"}, rb'{"url":"https:\/\/a\/b"}'),
        ("é€😀", rb'"\u00e9\u20ac\ud83d\ude00"'),
        ({}, b"[]"),
        ([], b"[]"),
        ((1, "2"), b'[1,"2"]'),
        (None, b"null"),
        (True, b"true"),
        (150.0, b"150"),
        (150.25, b"150.25"),
        (0.00001, b"1.0e-5"),
        (1.5e-7, b"1.5e-7"),
        (1e20, b"1.0e+20"),
        (RawJson("0.10"), b"0.10"),
        ({"a": RawJson("NaN")}, b'{"a":NaN}'),
        ("not utf-8: \udce9", b""),
    ],
)
def test_json_is_written_as_php_writes_it(value, written):
    assert json_encode(value) == written


_texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _texts,
        lambda values: st.lists(values) | st.dictionaries(_texts, values, min_size=1),
    )
)
def test_what_is_written_reads_back_equal(value):
    assert json.loads(json_encode(value)) == value
