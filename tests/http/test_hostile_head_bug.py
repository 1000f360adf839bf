"""HEAD where a bug of ours is the answer."""

import socket

from tests.plugins.gateway import ORDERS_KEY


def test_a_bug_has_no_body_where_head_was_asked_for(gateway, monkeypatch):
    def broken(*_arguments, **_options):
        raise KeyError

    monkeypatch.setattr(gateway.inside.services.cache, "read", broken)
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    key = f"Host: x\r\nAuthorization: Bearer {ORDERS_KEY}\r\n"
    with socket.create_connection((host, int(port))) as caller:
        caller.sendall(
            f"HEAD /balances HTTP/1.1\r\n{key}\r\nGET /livez HTTP/1.1\r\n{key}Connection: close\r\n\r\n".encode()
        )
        answers = b"".join(iter(lambda: caller.recv(65536), b""))
    head, _, rest = answers.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500")
    assert rest.startswith(b"HTTP/1.1 200"), rest[:80]
