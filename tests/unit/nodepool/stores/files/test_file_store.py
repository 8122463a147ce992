from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings, strategies as st

from nodepool.domain.errors import CorruptFileError, InvalidInputError, NotFoundError, UnavailableError
from nodepool.stores.files.encryption import FRAME_BYTES, HEADER_BYTES
from nodepool.stores.files.file_store import FileStore, load_or_make_key

KEY = bytes(range(32))
SEALED_FRAME_BYTES = FRAME_BYTES + 16
SIZES = st.sampled_from([0, 1, 2, 3]).flatmap(
    lambda frames: st.integers(-2, 2).map(lambda more: max(0, frames * FRAME_BYTES + more))
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> FileStore:
    return FileStore(root, KEY)


@pytest.fixture(scope="module")
def shared_store() -> Iterator[FileStore]:
    with TemporaryDirectory() as folder:
        yield FileStore(Path(folder), KEY)


def content(size_bytes: int) -> bytes:
    return hashlib.shake_128(b"content").digest(size_bytes)


def package_path(root: Path, sha: str) -> Path:
    return root / "packages" / sha[:2] / sha


def files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@settings(deadline=None, max_examples=40)
@given(size_bytes=SIZES)
@example(size_bytes=FRAME_BYTES)
@example(size_bytes=0)
def test_what_is_put_at_once_is_read_back(shared_store: FileStore, size_bytes: int) -> None:
    data = content(size_bytes)
    sha = shared_store.put_package(data)
    assert sha == hashlib.sha256(data).hexdigest()
    chunks = list(shared_store.open_package(sha))
    assert b"".join(chunks) == data
    assert all(0 < len(chunk) <= 256 << 10 for chunk in chunks)


@settings(deadline=None, max_examples=40)
@given(size_bytes=SIZES, step_bytes=st.integers(1000, 3 * FRAME_BYTES))
@example(size_bytes=FRAME_BYTES, step_bytes=FRAME_BYTES)
@example(size_bytes=2 * FRAME_BYTES, step_bytes=FRAME_BYTES)
def test_what_is_streamed_is_read_back_whatever_the_pieces(
    shared_store: FileStore, size_bytes: int, step_bytes: int
) -> None:
    data = content(size_bytes)
    with shared_store.package_writer() as package, shared_store.result_writer("task:1") as result:
        for start in range(0, size_bytes, step_bytes):
            package.write(data[start : start + step_bytes])
            result.write(data[start : start + step_bytes])
        shared_store.delete_package(hashlib.sha256(data).hexdigest())
        committed = package.commit()
        assert result.commit() == committed == (hashlib.sha256(data).hexdigest(), size_bytes)
    assert shared_store.package_bytes(committed[0]) == data
    assert shared_store.result_bytes("task:1") == data


def test_a_package_that_is_there_is_not_written_again(store: FileStore, root: Path) -> None:
    data = content(3 * FRAME_BYTES)
    sha = store.put_package(data)
    before = package_path(root, sha).stat()
    other = FileStore(root, KEY)
    for again in (store, store, other, other):
        assert again.put_package(data) == sha
        with again.package_writer() as writer:
            writer.write(data)
            assert writer.commit() == (sha, len(data))
    after = package_path(root, sha).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert files_below(root) == [package_path(root, sha)]


def test_a_deleted_package_is_gone_and_can_be_put_again(store: FileStore, root: Path) -> None:
    sha = store.put_package(b"data")
    FileStore(root, KEY).delete_package(sha)
    with pytest.raises(NotFoundError):
        store.open_package(sha)
    assert store.put_package(b"data") == sha
    assert store.package_bytes(sha) == b"data"
    store.delete_package(sha)
    store.delete_package(sha)
    store.delete_package("../x")


def test_a_package_is_put_though_its_folder_was_removed(store: FileStore, root: Path) -> None:
    sha = store.put_package(b"data")
    store.delete_package(sha)
    package_path(root, sha).parent.rmdir()
    assert store.package_bytes(store.put_package(b"data")) == b"data"


def test_nothing_of_the_content_or_the_key_is_on_the_disk(store: FileStore, root: Path) -> None:
    sha = store.put_package(b"a very secret sentence")
    sealed = package_path(root, sha).read_bytes()
    assert b"secret" not in sealed
    assert KEY not in sealed
    store.delete_package(sha)
    store.put_package(b"a very secret sentence")
    assert package_path(root, sha).read_bytes() != sealed


def test_only_the_owner_may_read_the_files(store: FileStore, root: Path) -> None:
    previous = os.umask(0)
    try:
        loose = FileStore(root.with_name("loose"), KEY)
        loose.put_package(b"data")
        with loose.result_writer("task:1") as writer:
            writer.write(content(2 * FRAME_BYTES))
            writer.commit()
    finally:
        os.umask(previous)
    for path in [root.with_name("loose"), *root.with_name("loose").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path.name


def test_any_changed_byte_is_found(store: FileStore, root: Path) -> None:
    sha = store.put_package(b"some bytes")
    path = package_path(root, sha)
    sealed = path.read_bytes()
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(CorruptFileError):
            store.package_bytes(sha)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_changed_byte_of_a_large_file_is_found(shared_store: FileStore, data: st.DataObject) -> None:
    sha = shared_store.put_package(content(2 * FRAME_BYTES + 5))
    path = shared_store._package_path(sha)
    sealed = path.read_bytes()
    position = data.draw(st.integers(0, len(sealed) - 1))
    changed = bytearray(sealed)
    changed[position] ^= data.draw(st.integers(1, 255))
    try:
        path.write_bytes(changed)
        with pytest.raises(CorruptFileError):
            shared_store.package_bytes(sha)
    finally:
        path.write_bytes(sealed)


@pytest.mark.parametrize("size_bytes", [0, 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES])
def test_a_cut_or_lengthened_file_is_found(store: FileStore, root: Path, size_bytes: int) -> None:
    sha = store.put_package(content(size_bytes))
    path = package_path(root, sha)
    sealed = path.read_bytes()
    frame_ends = range(HEADER_BYTES, len(sealed), SEALED_FRAME_BYTES)
    for damaged in (
        *(sealed[:end] for end in (0, 1, HEADER_BYTES - 1, len(sealed) - 1, *frame_ends)),
        sealed + b"x",
        sealed + sealed[-16:],
        sealed + bytes(SEALED_FRAME_BYTES),
    ):
        path.write_bytes(damaged)
        with pytest.raises(CorruptFileError):
            store.package_bytes(sha)


def test_frames_in_another_order_are_found(store: FileStore, root: Path) -> None:
    sha = store.put_package(content(3 * FRAME_BYTES))
    path = package_path(root, sha)
    sealed = path.read_bytes()
    header, body = sealed[:HEADER_BYTES], sealed[HEADER_BYTES:]
    frames = [body[start : start + SEALED_FRAME_BYTES] for start in range(0, len(body), SEALED_FRAME_BYTES)]
    for order in ([1, 0, 2], [0, 0, 2], [0, 2], [1, 2], [0, 2, 1]):
        path.write_bytes(header + b"".join(frames[index] for index in order))
        with pytest.raises(CorruptFileError):
            store.package_bytes(sha)


def test_a_file_in_anothers_place_is_found_before_a_byte_is_given_out(store: FileStore, root: Path) -> None:
    one, other = store.put_package(b"one"), store.put_package(b"other")
    package_path(root, one).write_bytes(package_path(root, other).read_bytes())
    with pytest.raises(CorruptFileError):
        store.open_package(one)
    with store.result_writer("task:2") as writer:
        writer.write(b"of another attempt")
        writer.commit()
    (result,) = root.glob("results/*/task@2.zip")
    folder = root / "results" / hashlib.sha256(b"task:1").hexdigest()[:2]
    folder.mkdir(exist_ok=True)
    result.rename(folder / "task@1.zip")
    with pytest.raises(CorruptFileError):
        store.open_result("task:1")


def test_another_key_reads_nothing(store: FileStore, root: Path) -> None:
    sha = store.put_package(b"data")
    with pytest.raises(CorruptFileError):
        FileStore(root, bytes(32)).open_package(sha)


@pytest.mark.parametrize("sha", ["0" * 64, "", "0" * 63, "../" * 21 + "x", "A" * 64])
def test_a_package_that_is_not_there_is_not_found(store: FileStore, sha: str) -> None:
    with pytest.raises(NotFoundError):
        store.open_package(sha)


@pytest.mark.parametrize(
    "attempt_id", ["", "task", "task:", "a/b:1", "../x:1", "task@1:1:2", "task:1\n", "t:x"]
)
def test_what_is_no_attempt_id_is_refused(store: FileStore, attempt_id: str) -> None:
    for use in (
        store.open_result,
        store.result_writer,
        store.delete_result,
    ):
        with pytest.raises(InvalidInputError):
            use(attempt_id)


def test_a_result_belongs_to_its_attempt(store: FileStore, root: Path) -> None:
    with store.result_writer("..:1") as writer:
        writer.write(b"zip")
        writer.commit()
    assert store.result_bytes("..:1") == b"zip"
    with pytest.raises(NotFoundError):
        store.open_result("task:1")
    for attempt_id in ("task:1", "..:1", "..:1"):
        store.delete_result(attempt_id)
    assert files_below(root) == []


def test_a_log_is_kept_beside_its_result_and_goes_with_it(store: FileStore, root: Path) -> None:
    for said in (b"said at first", b"all that was said"):
        store.put_log("task:1", said)
        assert store.log_bytes("task:1") == said
    assert all(b"said" not in path.read_bytes() for path in files_below(root))
    with pytest.raises(NotFoundError):
        store.log_bytes("task:2")
    store.delete_result("task:1")
    assert files_below(root) == []


def test_a_second_result_of_an_attempt_appears_whole_at_its_commit(store: FileStore) -> None:
    for data in (content(2 * FRAME_BYTES), b"short"):
        with store.result_writer("task:1") as writer:
            writer.write(data)
            writer.commit()
        assert store.result_bytes("task:1") == data
    with store.result_writer("task:1") as writer:
        writer.write(content(2 * FRAME_BYTES))
    assert store.result_bytes("task:1") == b"short"


@pytest.mark.parametrize("size_bytes", [1, 5 * FRAME_BYTES])
def test_a_writer_without_commit_leaves_nothing(store: FileStore, root: Path, size_bytes: int) -> None:
    with store.package_writer() as writer:
        writer.write(content(size_bytes))
    assert files_below(root) == []
    for finished in (lambda: writer.write(b"x"), writer.commit):
        with pytest.raises(ValueError, match="finished"):
            finished()
    writer.abort()


def test_a_reader_that_stops_early_leaves_no_open_file(store: FileStore) -> None:
    sha = store.put_package(content(4 * FRAME_BYTES))
    before = len(list(Path("/proc/self/fd").iterdir()))
    store.open_package(sha)
    next(store.open_package(sha))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# A writer that dies the hard way, with a part of what was sent on the disk.
DYING = """
import os, signal, sys
from pathlib import Path
from nodepool.stores.files.file_store import FileStore
writer = FileStore(Path(sys.argv[1]), bytes(range(32))).package_writer()
writer.write(b"a secret" * 100_000)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_sweep_removes_only_what_writers_that_died_left(store: FileStore, root: Path) -> None:
    sha = store.put_package(b"data")
    os.utime(package_path(root, sha), (0, 0))
    with store.package_writer() as busy:
        busy.write(content(2 * FRAME_BYTES + 1))
        (busy_path,) = (root / "incoming").iterdir()
        subprocess.run([sys.executable, "-c", DYING, str(root)], check=False)
        (left_path,) = set((root / "incoming").iterdir()) - {busy_path}
        assert b"a secret" not in left_path.read_bytes()
        for path in (busy_path, left_path):
            os.utime(path, (1000, 1000))
        assert store.sweep_temporary(older_than_seconds=60, now=1060.0) == 0
        assert store.sweep_temporary(older_than_seconds=60, now=1061.0) == 1
        assert list((root / "incoming").iterdir()) == [busy_path]
        sha_of_busy, _ = busy.commit()
    assert set(files_below(root)) == {package_path(root, sha), package_path(root, sha_of_busy)}


def test_a_broken_disk_is_told_without_a_path(store: FileStore, root: Path) -> None:
    (root / "incoming").rmdir()
    with pytest.raises(UnavailableError) as caught:
        store.put_package(b"data")
    assert str(root) not in str(caught.value)


def test_threads_may_put_and_read_the_same_packages(store: FileStore, root: Path) -> None:
    contents = [content(size) for size in (0, 1024, FRAME_BYTES, 3 * FRAME_BYTES)]
    problems: list[BaseException] = []

    def work() -> None:
        try:
            for data in contents * 5:
                with store.package_writer() as writer:
                    writer.write(data)
                    writer.commit()
                assert store.package_bytes(store.put_package(data)) == data
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(files_below(root)) == len(contents)


PUT_IN_PROCESS = """
import hashlib, sys
from pathlib import Path
from nodepool.stores.files.file_store import FileStore, load_or_make_key

root = Path(sys.argv[1])
sys.stdin.readline()
store = FileStore(root, load_or_make_key("", root.with_name("key")))
for size in map(int, sys.argv[2:]):
    data = hashlib.shake_128(b"content").digest(size)
    sha = store.put_package(data)
    assert store.package_bytes(sha) == data
    print(sha)
"""


def test_processes_that_start_together_share_one_key_and_one_package(root: Path) -> None:
    sizes = [1024, 10, 2 * FRAME_BYTES]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PUT_IN_PROCESS, root, *map(str, sizes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[5],
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].split() for process in processes]
    assert answers == [[hashlib.sha256(content(size)).hexdigest() for size in sizes]] * 4
    assert len(files_below(root)) == len(sizes)
    key_path = root.with_name("key")
    assert stat.S_IMODE(key_path.stat().st_mode) == 0o600
    assert sorted(path.name for path in root.parent.iterdir()) == ["key", "store"]


def test_a_secret_always_stands_for_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "below" / "key"
    assert load_or_make_key("a secret", path) == load_or_make_key("a secret", path)
    assert load_or_make_key("a secret", path) != load_or_make_key("another", path)
    assert len(load_or_make_key("a secret", path)) == 32
    assert not path.parent.exists()
    made = load_or_make_key("", path)
    assert len(made) == 32
    assert load_or_make_key("", path) == made


def test_a_file_that_is_no_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"short")
    with pytest.raises(CorruptFileError, match="key"):
        load_or_make_key("", path)
    with pytest.raises(ValueError, match="32 bytes"):
        FileStore(tmp_path / "store", b"short")
