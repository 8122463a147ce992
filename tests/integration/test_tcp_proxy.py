"""The proxy that tests break lines with does to a line what its methods say."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that says again what it hears."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(end: socket.socket) -> None:
        with end:
            try:
                while data := end.recv(1 << 16):
                    end.sendall(data)
            except OSError:
                return

    def serve() -> None:
        while True:
            try:
                end, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(end,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def proxy(echo_port: int) -> Iterator[TcpProxy]:
    with TcpProxy(echo_port) as made:
        yield made


@pytest.fixture
def line(proxy: TcpProxy) -> Iterator[socket.socket]:
    with _dial(proxy) as end:
        assert _says(end, b"first") == b"first"
        yield end


def _dial(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=60)


def _says(end: socket.socket, word: bytes) -> bytes:
    end.sendall(word)
    return end.recv(100)


def _is_silent(end: socket.socket, seconds: float = 0.2) -> bool:
    end.settimeout(seconds)
    try:
        return end.recv(100) == b"?"
    except TimeoutError:
        return True
    finally:
        end.settimeout(10)


def test_what_is_large_comes_through_whole(line: socket.socket) -> None:
    data = bytes(range(256)) * (1 << 12)
    threading.Thread(target=line.sendall, args=(data,), daemon=True).start()
    found = b""
    while len(found) < len(data):
        found += line.recv(1 << 16)
    assert found == data


def test_a_delay_is_a_delay_on_each_way(proxy: TcpProxy, line: socket.socket) -> None:
    proxy.delay_seconds = 0.1
    began = time.monotonic()
    assert _says(line, b"slow") == b"slow"
    assert time.monotonic() - began >= 0.2


def test_a_frozen_line_delivers_when_it_flows_again(proxy: TcpProxy, line: socket.socket) -> None:
    proxy.freeze()
    line.sendall(b"later")
    with _dial(proxy) as other:
        other.sendall(b"new")
        assert _is_silent(line)
        assert _is_silent(other)
        proxy.forward()
        assert line.recv(100) == b"later"
        assert other.recv(100) == b"new"


def test_what_was_in_a_black_hole_stays_there_and_new_lines_work(
    proxy: TcpProxy, line: socket.socket
) -> None:
    proxy.black_hole()
    line.sendall(b"lost")
    with _dial(proxy) as within:
        within.sendall(b"lost")
        assert _is_silent(within)
        proxy.forward()
        assert _is_silent(line)
        assert _is_silent(within)
    with _dial(proxy) as after:
        assert _says(after, b"heard") == b"heard"


def test_lines_are_killed_and_others_work_meanwhile(proxy: TcpProxy, line: socket.socket) -> None:
    proxy.kill_lines()
    line.sendall(b"lost")
    assert _is_silent(line)
    with _dial(proxy) as other:
        assert _says(other, b"heard") == b"heard"


def test_lines_are_reset(proxy: TcpProxy, line: socket.socket) -> None:
    proxy.reset_lines()
    with pytest.raises(ConnectionResetError):
        line.recv(100)
    with _dial(proxy) as other:
        assert _says(other, b"heard") == b"heard"


def test_nobody_listens_until_the_line_is_back_on_its_port(proxy: TcpProxy, line: socket.socket) -> None:
    port = proxy.port
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        line.recv(100)
    with pytest.raises(ConnectionRefusedError):
        _dial(proxy)
    proxy.forward()
    assert proxy.port == port
    with _dial(proxy) as other:
        assert _says(other, b"heard") == b"heard"


def test_who_hangs_up_is_hung_up_on(proxy: TcpProxy, line: socket.socket) -> None:
    line.shutdown(socket.SHUT_WR)
    assert line.recv(100) == b""
    wait_until(lambda: proxy.open_lines == 0, "the line is gone")


@pytest.mark.parametrize("answers", [False, True])
def test_one_way_is_lost_and_stays_so_on_lines_that_lost_something(
    proxy: TcpProxy, line: socket.socket, *, answers: bool
) -> None:
    proxy.lose_one_way(answers=answers)
    line.sendall(b"lost")
    assert _is_silent(line)
    proxy.forward()
    line.sendall(b"lost, too")
    assert _is_silent(line)
    with _dial(proxy) as after:
        assert _says(after, b"heard") == b"heard"


def test_a_narrow_line_takes_its_time_for_all_who_use_it(proxy: TcpProxy, line: socket.socket) -> None:
    proxy.bytes_per_second = 20_000.0
    with _dial(proxy) as other:
        began = time.monotonic()
        for end in (line, other):
            end.sendall(bytes(2000))
        for end in (line, other):
            left = 2000
            while left:
                left -= len(end.recv(left))
        # Both ways, of both.
        assert time.monotonic() - began >= 4 * 2000 / 20_000 * 0.9


def test_a_lines_delay_varies_and_bytes_keep_their_order(proxy: TcpProxy, line: socket.socket) -> None:
    proxy.jitter_seconds = 0.02
    data = bytes(range(100))
    for at in range(0, 100, 10):
        line.sendall(data[at : at + 10])
    found = b""
    while len(found) < len(data):
        found += line.recv(100)
    assert found == data
