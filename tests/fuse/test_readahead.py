"""Small files are read ahead once those of a directory are read one by one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from cfsfuse import readahead
from cfsfuse.readahead import Readahead
from cfsfuse.reading import FileReader
from cfsrepo.formats.tree import directory
from cfsrepo.images.view import ImageView
from tests.fuse.fuse_helpers import Maker, Sample, noise
from tests.waiting import wait_until

FILES = 100


@pytest.fixture
def made(tmp_path: Path) -> Sample:
    """Two directories of small files, in which other entries stand too."""
    maker = Maker()
    root = directory()
    for name in (b"one", b"two"):
        below = directory()
        assert root.entries is not None
        assert below.entries is not None
        root.entries[name] = below
        for number in range(FILES):
            below.entries[b"%04d" % number] = maker.file(noise(100 + 37 * number, number))
            below.entries[b"%04d-inline" % number] = maker.file(b"%d" % number)
            below.entries[b"%04d-below" % number] = directory()
    return maker.write(root, tmp_path)


class Listed:
    """The files of a directory in the order in which they are listed."""

    def __init__(self, made: Sample, view: ImageView, name: bytes) -> None:
        self.nid = view.resolve(name)
        self.entries = [(entry, nid) for _, entry, nid in view.readdir(self.nid)]
        names = [b"%04d" % number for number in range(FILES)]
        nids = dict(self.entries)
        self.files = [(nids[entry], made.contents[b"/" + name + b"/" + entry]) for entry in names]


def test_files_in_a_row_are_read_ahead(made: Sample) -> None:
    view = made.view()
    listed = Listed(made, view, b"one")
    reader = FileReader(view)
    try:
        for number, (nid, content) in enumerate(listed.files):
            if number >= 2:  # the first two show that it goes on
                wait_until(lambda nid=nid: nid in reader.ahead, f"file {number} is read ahead")
            assert bytes(reader.read(nid, 0, 131072)) == content
        assert reader.hits == reader.ahead.hits == FILES - 2
    finally:
        reader.close()


def test_a_reader_that_is_faster_is_overtaken_again(made: Sample) -> None:
    view = made.view()
    listed = Listed(made, view, b"one")
    ahead = Readahead(view)
    nids = [nid for nid, _ in listed.files]
    try:
        ahead.missed(nids[50])
        ahead.missed(nids[51])  # so that threads run
        ahead._streams.appendleft(readahead._Stream(nids[2]))
        ahead.missed(nids[5])
        wait_until(lambda: nids[6] in ahead, "the file after the one that was read")
        assert nids[4] not in ahead
    finally:
        ahead.close()


def test_one_file_here_and_there_starts_nothing(made: Sample) -> None:
    view = made.view()
    listed = Listed(made, view, b"one")
    reader = FileReader(view)
    try:
        for nid, content in listed.files[::3]:
            assert bytes(reader.read(nid, 0, 131072)) == content
        assert not reader.ahead._threads
    finally:
        reader.close()


def test_it_ends_with_the_directory(made: Sample) -> None:
    view = made.view()
    one, two = Listed(made, view, b"one"), Listed(made, view, b"two")
    ahead = Readahead(view)
    for listed in (one, two):
        ahead.listed(listed.nid, [nid for entry, nid in listed.entries if entry[:1] != b"."])
    assert ahead._following(one.files[0][0]) == one.files[1][0]
    assert ahead._following(one.files[-1][0]) is None
    unlisted = Readahead(view)
    assert unlisted._following(one.files[-1][0]) == two.files[0][0]


def test_a_file_in_pieces_and_only_once(made: Sample) -> None:
    view = made.view()
    listed = Listed(made, view, b"one")
    ahead = Readahead(view)
    try:
        ahead.missed(listed.files[0][0])
        ahead.missed(listed.files[1][0])
        nid, content = listed.files[2]
        wait_until(lambda: nid in ahead, "the third file is read ahead")
        first = ahead.take(nid, 0, 64, wait=True)
        assert first is not None
        assert bytes(first) == content[:64]
        rest = ahead.take(nid, 64, 131072, wait=False)
        assert rest is not None
        assert bytes(rest) == content[64:]
        assert nid not in ahead  # the kernel has it now
    finally:
        ahead.close()


def test_damage_is_met_by_who_asks(made: Sample) -> None:
    view = made.view()
    listed = Listed(made, view, b"one")
    made.objects[b"/one/0005"].write_bytes(b"other")
    reader = FileReader(view)
    try:
        for number, (nid, content) in enumerate(listed.files[:10]):
            if number == 5:
                with pytest.raises(OSError, match="bytes long"):
                    reader.read(nid, 0, 131072)
            else:
                assert bytes(reader.read(nid, 0, 131072)) == content
    finally:
        reader.close()


def test_what_is_kept_is_bounded(made: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readahead, "_BYTES_KEPT", 4000)
    view = made.view()
    listed = Listed(made, view, b"one")
    reader = FileReader(view)
    most = 0
    original = Readahead._store

    def watched(self: Readahead, *arguments: Any) -> None:
        nonlocal most
        original(self, *arguments)
        most = max(most, sum(len(kept.data) for kept in self._kept.values() if kept.data))

    monkeypatch.setattr(Readahead, "_store", watched)
    try:
        for nid, content in listed.files:
            assert bytes(reader.read(nid, 0, 131072)) == content
    finally:
        reader.close()
    assert 0 < most <= 4000


def test_many_readers_at_once(made: Sample) -> None:
    view = made.view()
    files = Listed(made, view, b"one").files + Listed(made, view, b"two").files
    reader = FileReader(view)
    wrong: list[int] = []

    def read(start: int) -> None:
        for nid, content in files[start:] + files[:start]:
            found = reader.read_ready(nid, 0, 131072)
            if found is None:
                found = reader.read(nid, 0, 131072)
            if bytes(found) != content:
                wrong.append(nid)

    threads = [threading.Thread(target=read, args=(start,)) for start in (0, 0, 50, 100, 150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader.close()
    assert wrong == []
