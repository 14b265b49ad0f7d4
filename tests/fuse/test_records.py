"""Records of servers: found while they run, removed when they are gone."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cfsfuse import records
from cfsfuse.records import Record
from cfsrepo.errors import SystemFailure
from cfsrepo.system.processes import boot_id, process_start_time


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "cfsfuse"


def record() -> Record:
    pid = os.getpid()
    return Record(
        pid=pid,
        start_time=process_start_time(pid) or 0,
        boot_id=boot_id(),
        mount_point="/a b",
        name="image",
        image_id=None,
        repository=None,
        engine="direct",
        verify="auto",
        options=["allow_other"],
        log=None,
    )


def test_a_running_server_is_found_and_answers(directory: Path) -> None:
    assert records.records() == []
    with records.published(record(), lambda: {"requests": 5}):
        assert records.records() == [record()]
        for _ in range(3):
            assert records.numbers_of(record()) == {"requests": 5}
    assert records.records() == []
    assert os.listdir(directory) == []
    assert records.numbers_of(record()) is None


@pytest.mark.parametrize("change", [{"start_time": 1}, {"boot_id": "other"}, {"pid": 1 << 22}])
def test_the_record_of_a_killed_server_is_removed(
    directory: Path, change: dict[str, object]
) -> None:
    gone = replace(record(), **change)  # type: ignore[arg-type]
    assert not gone.is_live
    with records.published(gone, dict):
        assert records.records() == []
        assert os.listdir(directory) == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"pid": 1}', "\xff"])
def test_what_is_no_record_is_removed(directory: Path, text: str) -> None:
    records.directory()
    (directory / "1.json").write_text(text)
    assert records.records() == []
    assert os.listdir(directory) == []


def test_records_are_complete_json(directory: Path) -> None:
    with records.published(record(), dict):
        value = json.loads((directory / f"{os.getpid()}.json").read_text())
    assert value["mount_point"] == "/a b"


def test_a_directory_of_others_is_not_used(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(SystemFailure, match="not a directory of ours"):
        records.directory()
    assert records.records() == []
    assert records.numbers_of(record()) is None
    assert "not a directory of ours" in caplog.text
    directory.rmdir()
    directory.symlink_to("/")
    with pytest.raises(SystemFailure):
        records.directory()
