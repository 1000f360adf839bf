"""Any other function: only those allowed, only names that PHP cannot take for ours, the answer as it is."""

import json

import pytest


def post(gateway, name, parameters):
    return gateway.http.post(f"/functions/{name}", json=parameters)


def test_an_allowed_function_answers_as_it_is(gateway, simulator):
    parameters = {"amount": "0.5", "cryptocurrency_code": "btc", "currency_code": "usd"}
    answer = post(gateway, "get-fiat-value", parameters)
    assert answer.status_code == 200
    assert set(answer.json()) == {"response"}
    sent = simulator.calls()[0]["fields"]
    assert [name for name, _ in sent] == [*parameters, "function", "api-key"]


def test_numbers_keep_every_digit(gateway, simulator):
    simulator.scenario("numbers-for-strings")
    assert "1250.50" in post(gateway, "get-balances", {}).text


def test_indexed_names_and_odd_values_travel(gateway, simulator):
    parameters = {"a[]": "x & y=z", "b[0]": "ü\n", "c": ""}
    post(gateway, "odd-one", parameters)
    assert [tuple(pair) for pair in simulator.calls()[0]["fields"]][:3] == list(parameters.items())


@pytest.mark.parametrize(
    "name",
    [
        "function", "api_key", "api-key", " function", "\tapi-key", " api-key", "function\x00x", "api-key\x00", "function[]",
        "function[x]", "api_key[0]", "Function", "api.key", "api key", "a b", "a.b", "", "0", "_a", "a[b][c]", "a[b", "a]",
        "a[[b]]", "a" * 65, "ａ", "a[B]", "a\n", "&function", "a=b",
    ],
)  # fmt: skip
def test_a_name_that_php_could_take_for_ours_is_refused_by_name(gateway, simulator, name):
    answer = post(gateway, "odd-one", {name: "refund"})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation-failed")
    [fault] = answer.json()["errors"]
    assert fault["pointer"] == f"#/{name}"[:120]
    assert simulator.calls() == []


@pytest.mark.parametrize(
    "parameters",
    [{"a": 1}, {"a": None}, {"a": ["x"]}, {"a": {"b": "c"}}, {"a": "x\x00y"}, {"a": "x" * 10_001}, [], "x",
     {f"a{n}": "x" for n in range(51)}],
)  # fmt: skip
def test_parameters_are_a_flat_object_of_texts(gateway, simulator, parameters):
    assert post(gateway, "odd-one", parameters).status_code == 422
    assert simulator.calls() == []


@pytest.mark.parametrize("name", ["create-checkout-session", "refund", "update-transaction", "encryption"])
def test_what_is_not_listed_is_not_allowed(gateway, simulator, name):
    answer = post(gateway, name, {})
    assert (answer.status_code, answer.json()["code"]) == (403, "function-not-allowed")
    assert simulator.calls() == []


@pytest.mark.parametrize("name", ["Odd", "a%20b", "a" * 65, "a%00", "a%26b"])
def test_a_function_name_is_a_slug(gateway, name):
    assert post(gateway, name, {}).status_code == 422


def test_a_function_that_quantapay_does_not_have_is_not_supported(gateway):
    answer = post(gateway, "odd-one", {})
    assert (answer.status_code, answer.json()["code"]) == (501, "function-not-supported")


def test_a_missing_argument_is_named_only_if_the_caller_named_it_first(gateway, simulator):
    unnamed = post(gateway, "get-transaction", {}).json()
    assert unnamed["code"] == "missing-argument"
    assert "transaction_id" not in json.dumps(unnamed)
    simulator.scenario("missing-argument")
    assert post(gateway, "get-fiat-value", {"amount": "1"}).status_code == 422


@pytest.mark.parametrize(
    ("scenario", "code"),
    [
        ("success-with-error-text", "upstream-rejected"),
        ("success-with-error-list", "upstream-rejected"),
        ("success-with-error-object", "upstream-rejected"),
        ("hang", "upstream-timeout"),
    ],
)
def test_an_answer_that_looks_like_an_error_is_one(settings_of, gateway, simulator, scenario, code):
    from tests.plugins.gateway import running

    simulator.scenario(scenario)
    with running(settings_of(quantapay_timeout=0.3), seen=gateway.seen) as hurried:
        problem = post(hurried, "get-balances", {}).json()
    assert problem["code"] == code
    assert problem.get("outcome") == ("unknown" if scenario == "hang" else None)


def test_a_function_is_called_by_the_name_that_the_account_knows(settings_of, gateway, simulator):
    from tests.plugins.gateway import example_config, running

    config = example_config()
    config["functions"]["rename"] = {"get-balances": "my-balances"}
    with running(settings_of(config), seen=gateway.seen) as renamed:
        assert renamed.http.get("/balances").json()["code"] == "function-not-supported"
    assert simulator.calls()[0]["function"] == "my-balances"
