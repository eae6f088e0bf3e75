"""The RPC client against servers that aren't CometBFT: none, a silent, a garbled, a forgetful."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hansa.network.comet.rpc import RpcClient, RpcTrouble, Trouble, split_address

HEALTHY = b'{"jsonrpc":"2.0","id":1,"result":{}}'


def make_response(body: bytes, status: str = "200 OK") -> bytes:
    """An HTTP response that keeps its connection."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def serve(*connections: list[bytes]) -> Iterator[str]:
    """Give each connection its answers in turn, and close it after them."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            for answers in connections:
                peer, _ = server.accept()
                with peer:
                    for answer in answers:
                        read_request(peer)
                        peer.sendall(answer)

        thread = threading.Thread(target=run)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def read_request(peer: socket.socket) -> None:
    """Read a request to the end of its body."""
    head, _, body = b"", b"", b""
    while b"\r\n\r\n" not in head:
        head += peer.recv(65_536)
    head, _, body = head.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += peer.recv(65_536)


def ask(address: str, timeout_s: float = 10.0) -> RpcTrouble:
    """The trouble with a server."""
    with RpcClient(address, timeout_s=timeout_s) as rpc, pytest.raises(RpcTrouble) as caught:
        rpc.health()
    return caught.value


def test_nobody_there_is_told_apart() -> None:
    """A port where nobody listens is a node that is down."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    trouble = ask(f"127.0.0.1:{port}")
    assert (True, False) == (trouble.is_unreachable, trouble.is_timeout)


def test_silence_is_told_apart() -> None:
    """A node that doesn't answer in time may have done what was asked."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        trouble = ask(f"127.0.0.1:{server.getsockname()[1]}", timeout_s=0.05)
    assert (False, True) == (trouble.is_unreachable, trouble.is_timeout)


GARBLED = {
    "page": make_response(b"<html>Not here</html>", "404 Not Found"),
    "number": make_response(b"7"),
    "nothing": make_response(b""),
}


@pytest.mark.parametrize("response", GARBLED.values(), ids=GARBLED.keys())
def test_answers_of_others_are_told_apart(response: bytes) -> None:
    """What isn't JSON-RPC comes from some other server."""
    with serve([response]) as address:
        assert Trouble.GARBLED is ask(address).trouble


ERRORS = {
    "full": ("mempool is full: number of txs 9 (max: 9)", "is_mempool_full"),
    "rechecking": ("mempool is still rechecking after a new committed block", "is_mempool_full"),
    "seen": ("tx already exists in cache", "is_in_cache"),
    "behind": ("endpoint is closed while node is catching up", "is_catching_up"),
    "large": ("Tx too large. Max size is 9, but got 10", "is_too_large"),
    "other": ("no such height", ""),
}
FLAGS = ("is_mempool_full", "is_in_cache", "is_catching_up", "is_too_large", "is_unreachable")


@pytest.mark.parametrize(("text", "flag"), ERRORS.values(), ids=ERRORS.keys())
def test_errors_of_cometbft_are_told_apart(text: str, flag: str) -> None:
    """Each of the errors that ask for another course has its attribute, and only its own."""
    error = f'{{"code":-32603,"message":"Internal error","data":"{text}"}}'
    body = f'{{"jsonrpc":"2.0","id":-1,"error":{error}}}'.encode()
    with serve([make_response(body, "500 Internal Server Error")]) as address:
        trouble = ask(address)
    assert (-32603, f"Internal error: {text}") == (trouble.code, trouble.text)
    assert {flag} - {""} == {name for name in FLAGS if getattr(trouble, name)}


def test_a_kept_connection_that_was_closed_is_opened_anew() -> None:
    """CometBFT closes what is idle for 10 s; the next question isn't lost by that."""
    with (
        serve([make_response(HEALTHY)], [make_response(HEALTHY)]) as address,
        RpcClient(address) as rpc,
    ):
        rpc.health()
        rpc.health()


def test_a_connection_serves_many_questions() -> None:
    """The second question goes on the connection of the first."""
    with (
        serve([make_response(HEALTHY), make_response(HEALTHY)]) as address,
        RpcClient(address) as rpc,
    ):
        rpc.health()
        rpc.health()


def test_pages_of_validators_are_of_one_height() -> None:
    """All pages are asked for, to the number that the first one names."""
    pages = [
        make_response(
            f'{{"result":{{"block_height":"5","validators":[{names}],"total":"3"}}}}'.encode()
        )
        for names in ('{"name":"a"},{"name":"b"}', '{"name":"c"}')
    ]
    with serve(pages) as address, RpcClient(address) as rpc:
        assert ["a", "b", "c"] == [validator["name"] for validator in rpc.validators()]


ADDRESSES = {
    "127.0.0.1:1": ("127.0.0.1", 1),
    "tcp://node:26657": ("node", 26657),
    "http://[::1]:8": ("::1", 8),
}


def test_addresses_are_read_with_and_without_a_scheme() -> None:
    """The forms that stand in settings of CometBFT and of ours."""
    assert list(ADDRESSES.values()) == [split_address(text) for text in ADDRESSES]


@pytest.mark.parametrize("text", ["", "node", "https://node:1", "node:x", ":1", "unix:///a"])
def test_other_addresses_are_refused(text: str) -> None:
    """What isn't host and port is refused before anything is asked."""
    with pytest.raises(ValueError, match=r"HOST:PORT|Port"):
        split_address(text)
