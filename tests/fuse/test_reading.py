"""The reader of files by nid: what it keeps, how it is bounded, what it reports."""

from __future__ import annotations

import logging
import os
import random
import threading
from pathlib import Path

import pytest

from cfsfuse import reading
from cfsfuse.reading import FileReader
from cfsrepo.formats.erofs.reader import Backing
from cfsrepo.images.contents import Buffer
from cfsrepo.images.verified import DamagedError
from cfsrepo.images.view import ImageView
from tests.fuse.fuse_helpers import Sample, sample


@pytest.fixture
def made(tmp_path: Path) -> Sample:
    return sample(tmp_path)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_files_are_read_from_anywhere_by_many_threads(made: Sample, tmp_path: Path) -> None:
    view = made.view(merkle=tmp_path / "merkle")
    reader = FileReader(view)
    files = [(view.resolve(path), content) for path, content in made.contents.items()]
    files += [files[-1]] * 10
    wrong: list[int] = []

    def work(seed: int) -> None:
        generator = random.Random(seed)
        for _ in range(400):
            nid, content = generator.choice(files)
            offset = generator.randrange(len(content) + 1)
            size = generator.choice((1, 4096, 131072))
            read = generator.choice((reader.read, reader.read_ready))
            data = read(nid, offset, size)
            if data is not None and bytes(data) != content[offset : offset + size]:
                wrong.append(nid)

    before = descriptors()
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    reader.close()
    assert descriptors() == before


def test_what_is_kept_is_bounded(made: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_FILES_KEPT", 2)
    view = made.view()
    reader = FileReader(view)
    before = descriptors()
    for path in made.contents:
        reader.read(view.resolve(path), 1, 1)  # not the whole file: it is kept
        assert len(reader._kept) <= 3
    assert descriptors() <= before + 4
    monkeypatch.setattr(reading, "_BYTES_KEPT", 200_000)
    for path in made.contents:
        reader.read(view.resolve(path), 1, 1)
        assert reader._bytes <= 200_000 + 131073
    reader.close()


def test_a_file_read_in_one_go_is_not_kept(made: Sample) -> None:
    view = made.view()
    reader = FileReader(view)
    for path in made.contents:
        nid = view.resolve(path)
        if path != b"/large":
            reader.read(nid, 0, 1 << 20)
    assert not reader._kept
    assert reader._bytes == 0


class SlowObjects:
    """Opens one at a time, on a signal, and fails the first time."""

    def __init__(self) -> None:
        self.opened = 0
        self.go = threading.Event()

    def open(self, backing: Backing, size: int) -> Zeros:
        self.opened += 1
        self.go.wait()
        if self.opened == 1:
            raise DamagedError(backing, "the first time")
        return Zeros()

    def open_ready(self, backing: Backing, size: int) -> Zeros | None:
        return None


class Zeros:
    held = 0

    def read(self, offset: int, size: int) -> Buffer:
        return bytes(size)

    def read_ready(self, offset: int, size: int) -> Buffer | None:
        return bytes(size)

    def close(self) -> None:
        pass


def test_readers_of_a_file_wait_for_the_one_that_opens_it(made: Sample) -> None:
    objects = SlowObjects()
    view = ImageView(made.image, objects)
    reader = FileReader(view)
    nid = view.resolve(b"/file-65")
    results: list[object] = []

    def work() -> None:
        try:
            results.append(bytes(reader.read(nid, 1, 5)))
        except DamagedError as error:
            results.append(error)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert reader.read_ready(nid, 0, 5) is None
    objects.go.set()
    for thread in threads:
        thread.join()
    # One failed; the others tried again, and opened it once.
    assert sum(isinstance(result, DamagedError) for result in results) == 1
    assert results.count(bytes(5)) == 4
    assert objects.opened == 2


def test_damage_is_logged_once_with_image_path_and_object(
    made: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    path = made.objects[b"/file-4097"]
    path.unlink()
    view = made.view()
    reader = FileReader(view)
    nid = view.resolve(b"/file-4097")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            with pytest.raises(DamagedError) as caught:
                reader.read(nid, 0, 10)
            reader.report(nid, caught.value)
        reader.close()
    (record,) = caplog.records
    message = record.getMessage()
    assert "\n" not in message
    for part in ("sample", "/file-4097", f"{path.parent.name}/{path.name}", "No such file"):
        assert part in message
