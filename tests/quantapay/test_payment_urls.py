"""A payer is sent only to an exact host over https: anything a browser would read another way is refused."""

import pytest

from gateway.errors import UpstreamInvalidResponse
from gateway.quantapay.payment_urls import PaymentUrls, is_loopback

LIVE = PaymentUrls(["cloud.quantapay.app"], upstream_on_loopback=False)
SANDBOX = PaymentUrls(["127.0.0.1", "cloud.quantapay.app"], upstream_on_loopback=True)


@pytest.mark.parametrize(
    "url",
    [
        "https://cloud.quantapay.app/pay.php?checkout_id=cs-cs_0f&price=49.99",
        "https://cloud.quantapay.app:443/pay.php",
        "https://CLOUD.quantapay.app/pay.php",
    ],
)
def test_the_real_page_is_shown(url):
    LIVE.check(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://cloud.quantapay.app/pay.php",
        "https://cloud.quantapay.app:8443/pay.php",
        "https://cloud.quantapay.app.evil.example/pay.php",
        "https://evil.example/?https://cloud.quantapay.app/",
        "https://evilcloud.quantapay.app/pay.php",
        "https://user@cloud.quantapay.app/pay.php",
        "https://cloud.quantapay.app@evil.example/pay.php",
        "https://evil.example\\@cloud.quantapay.app/pay.php",
        "https://cloud.quantapay.app\\.evil.example/",
        "https://cloud.quantapay.app\t.evil.example/",
        "https://cloud.quantapay.app/pay.php\r\nSet-Cookie: a=b",
        " https://cloud.quantapay.app/pay.php",
        "https://cloud.quantapay.app./pay.php",
        "https://сloud.quantapay.app/pay.php",
        "https://[::1/pay.php",
        "https://cloud.quantapay.app:99999/pay.php",
        "javascript:alert(1)//cloud.quantapay.app",
        "//cloud.quantapay.app/pay.php",
        "cloud.quantapay.app/pay.php",
        "https://127.0.0.1/pay.php",
        "",
        "https://cloud.quantapay.app/" + "a" * 5000,
    ],
)
def test_any_other_page_is_refused(url):
    with pytest.raises(UpstreamInvalidResponse):
        LIVE.check(url)


def test_a_simulator_on_loopback_may_have_a_plain_page_with_a_port():
    SANDBOX.check("http://127.0.0.1:8765/pay.php?price=1")


def test_beside_a_simulator_the_real_host_still_needs_https():
    with pytest.raises(UpstreamInvalidResponse):
        SANDBOX.check("http://cloud.quantapay.app/pay.php")


@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("127.0.0.1", True), ("::1", True), ("127.1.2.3", True), ("10.0.0.1", False), (None, False),
     ("localhost.evil.example", False)],
)  # fmt: skip
def test_loopback_is_this_machine_alone(host, local):
    assert is_loopback(host) is local
