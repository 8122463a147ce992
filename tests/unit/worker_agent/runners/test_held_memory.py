"""What a process holds beyond its folders: files without a name, shared memory, unread sockets."""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker_agent.runners import counting, kernel_memory

MIB = 1 << 20


def test_a_deleted_file_counts_on_its_disk_until_it_is_closed(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    before = counting.held_by([os.getpid()], [device]).disk_bytes
    with (tmp_path / "file").open("wb") as file:
        file.write(b"x" * MIB)
        file.flush()
        os.fsync(file.fileno())
        assert counting.held_by([os.getpid()], [device]).disk_bytes == before
        (tmp_path / "file").unlink()
        assert counting.held_by([os.getpid()], [device]).disk_bytes >= before + MIB
    assert counting.held_by([os.getpid()], [device]).disk_bytes == before


def test_memory_without_a_name_counts_open_or_mapped() -> None:
    before = counting.held_by([os.getpid()], []).memory_bytes
    file = os.memfd_create("held")
    os.truncate(file, 2 * MIB)
    with mmap.mmap(file, 2 * MIB) as mapped:
        mapped[:] = b"x" * (2 * MIB)
        assert counting.held_by([os.getpid()], []).memory_bytes >= before + 2 * MIB
        os.close(file)
        held = counting.held_by([os.getpid()], [])
        assert held.memory_bytes >= before + 2 * MIB
        assert held.mappings > 10
    assert counting.held_by([os.getpid()], []).memory_bytes < before + 2 * MIB


def test_descriptors_on_their_way_are_hidden() -> None:
    assert not counting.held_by([os.getpid()], []).hidden
    here, there = socket.socketpair()
    with here, there, Path(os.devnull).open() as sent:
        socket.send_fds(here, [b"x"], [sent.fileno()])
        assert counting.held_by([os.getpid()], []).hidden


def test_too_many_descriptors_or_mappings_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_MAX_DESCRIPTORS", 1)
    assert counting.held_by([os.getpid()], []).hidden
    monkeypatch.undo()
    monkeypatch.setattr(counting, "_MAX_MAPS_BYTES", 100)
    assert counting.held_by([os.getpid()], []).hidden


def test_a_process_that_has_ended_holds_nothing() -> None:
    ended = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(ended, 0)
    held = counting.held_by([ended], [])
    assert (held.disk_bytes, held.memory_bytes, held.hidden) == (0, 0, False)
    assert counting.resident_bytes([ended], ()) == 0
    assert kernel_memory.held_for([ended], 0).total_bytes == 0


def test_resident_memory_leaves_out_the_files_that_are_counted_apart(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.write(b"x" * 8 * MIB)
        file.flush()
        status = os.fstat(file.fileno())
        with mmap.mmap(file.fileno(), 8 * MIB) as mapped:
            assert len(bytes(mapped)) == 8 * MIB  # read: its pages are there
            everything = counting.resident_bytes([os.getpid()], ())
            without = counting.resident_bytes([os.getpid()], {(status.st_dev, status.st_ino)})
    assert everything - without > 6 * MIB


def test_the_machine_and_its_disks_have_something_in_use(tmp_path: Path) -> None:
    assert counting.used_on_disk(tmp_path) > 0
    assert counting.used_on_disk(tmp_path / "not there") == 0
    assert counting.shared_memory_of_machine() >= 0
    assert counting.private_tmpfs_bytes([os.getpid()]) == 0  # it has the machine's own
    assert kernel_memory.of_machine() > 0


def unix_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        return here, server.accept()[0]


@pytest.fixture(params=[unix_pair, tcp_pair], ids=["unix", "tcp"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = request.param()
    with here, there:
        yield here, there


def test_what_waits_unread_in_a_socket_counts(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    before = kernel_memory.held_for([os.getpid()], 0).total_bytes
    here.sendall(b"x" * 100_000)
    found = kernel_memory.held_for([os.getpid()], 0)
    assert found.total_bytes >= before + 100_000
    assert found.hidden
    assert len(there.recv(100_000, socket.MSG_WAITALL)) == 100_000


def test_connections_that_nobody_took_are_hidden() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert kernel_memory.held_for([os.getpid()], 0).hidden
        assert server.fileno() >= 0


def test_a_mapping_costs_the_kernel_memory_and_a_socket_counts_once() -> None:
    assert kernel_memory.held_for([], 1000).total_bytes == 256_000
    with socket.socket(socket.AF_UNIX) as first:
        again = first.dup()
        with again:
            assert kernel_memory.held_for([os.getpid(), os.getpid()], 0).total_bytes > 0


def test_more_sockets_than_are_looked_at_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_memory, "_MAX_SOCKETS", 0)
    with socket.socket():
        assert kernel_memory.held_for([os.getpid()], 0).hidden
