"""The commands that are composefs's programs: arguments, output, exit status, and their names."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from cfsrepo.formats import fsverity
from tests.conftest import CHECKOUT, Peer
from tests.formats.formats_helpers import dump_bytes, image_bytes, tree_of
from tests.formats.test_formats_interop import original
from tests.formats.test_golden import GOLDEN, load

SAMPLE = (
    b"/ 4096 40755 3 0 0 0 0.0 - - -\n"
    b"/dir 4096 40755 2 0 0 0 0.0 - - -\n"
    b"/dir/a\\x20b 0 100644 1 0 0 0 0.0 - - -\n"
    b"/dir/l 9 @100644 2 0 0 0 0.0 /file - -\n"
    b"/file 9 100644 2 0 0 0 0.0 ab/" + b"cd" * 31 + b" - ab" + b"cd" * 31 + b"\n"
    b"/link 6 120777 1 0 0 0 0.0 tar\\nget - -\n"
)
OBJECT = "ab/" + "cd" * 31

Done = subprocess.CompletedProcess[bytes]


def cfs(*argv: str | Path, data: bytes = b"", **environment: str) -> Done:
    paths = [CHECKOUT, os.path.join(CHECKOUT, "repo"), os.path.join(CHECKOUT, "tools")]
    return subprocess.run(
        [sys.executable, "-m", "cfstools", *map(str, argv)],
        input=data,
        env={**os.environ, "PYTHONPATH": ":".join(paths), **environment},
        capture_output=True,
        check=False,
    )


def output(*argv: str | Path, data: bytes = b"") -> bytes:
    done = cfs(*argv, data=data)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(image_bytes(tree_of(SAMPLE)))
    return path


# --- mkcomposefs ---------------------------------------------------------------------------------


def test_image_from_a_dump(tmp_path: Path) -> None:
    dump, image = tmp_path / "dump", tmp_path / "image"
    dump.write_bytes(SAMPLE)
    assert output("mkcomposefs", "--from-file", dump, image) == b""
    assert image.read_bytes() == image_bytes(tree_of(SAMPLE), 0, 1)
    expected = image_bytes(tree_of(SAMPLE))
    assert (
        output("mkcomposefs", "--min-version=1", "--from-file", "-", "-", data=SAMPLE) == expected
    )


@pytest.mark.parametrize("options", [["--print-digest", "-"], ["--print-digest-only"]])
def test_digest(options: list[str]) -> None:
    image = image_bytes(tree_of(SAMPLE), 0, 1)
    digest = fsverity.digest(image).hex().encode() + b"\n"
    expected = image + digest if options[-1] == "-" else digest
    argv = ["mkcomposefs", "--from-file", options[0], "-", *options[1:]]
    assert output(*argv, data=SAMPLE) == expected


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ([], 0, 1),
        (["--min-version=1"], 1, 1),
        (["--max-version=1"], 0, 1),
        (["--max-version", "0"], 0, 0),
        (["--min-version=0"], 0, 0),
        (["--min-v=1", "--max-v=0"], 1, 1),
    ],
)
def test_versions(options: list[str], low: int, high: int) -> None:
    dump = (GOLDEN / "special.dump").read_bytes()
    got = output("mkcomposefs", "--from-file", *options, "-", "-", data=dump)
    assert got == image_bytes(tree_of(dump), low, high)


def test_directory_with_a_digest_store(tmp_path: Path) -> None:
    source, store, image = tmp_path / "source", tmp_path / "a" / "store", tmp_path / "image"
    source.mkdir()
    (source / "file").write_bytes(b"x" * 65)
    (source / "small").write_bytes(b"y" * 64)
    os.link(source / "file", source / "same")
    output("mkcomposefs", "--threads=2", "--use-epoch", f"--digest-store={store}", source, image)
    digest = fsverity.digest(b"x" * 65).hex()
    assert [path for path in store.rglob("*") if path.is_file()] == [
        store / digest[:2] / digest[2:]
    ]
    assert (store / digest[:2] / digest[2:]).read_bytes() == b"x" * 65
    lines = output("composefs-info", "dump", image).split(b"\n")
    assert lines[1].startswith(b"/file 65 100644 2 ")
    assert lines[2].startswith(b"/same 65 @100644 2 ")


def test_a_bare_user_tree_is_what_its_records_say(tmp_path: Path) -> None:
    repo, tree = tmp_path / "repo", tmp_path / "tree"
    output("--repo", repo, "init")
    dump = (
        b"/ 4096 41777 3 5 6 0 1.5 - - - user.a=b\n"
        b"/dev 0 20600 1 7 8 259 2.0 - - - trusted.x=y\n"
        b"/dir 27 40700 2 70000 0 0 3.0 - - -\n"
        b"/file 5 104755 1 0 9 0 4.0 - hello -\n"
    )
    output("--repo", repo, "import-dump", "-", "image", data=dump)
    try:
        os.setxattr(tmp_path, "user.test", b"")
    except OSError:
        pytest.skip("needs a file system with user xattrs for temporary files")
    assert cfs("--repo", repo, "checkout", "image", tree).returncode == 0
    image = output("mkcomposefs", "--min-version=1", tree, "-")
    assert output("composefs-info", "dump", "/dev/stdin", data=image) == dump_bytes(tree_of(dump))
    options = ["--use-epoch", "--skip-devices", "--user-xattrs"]
    image = output("mkcomposefs", *options, tree, "-")
    assert output("composefs-info", "dump", "/dev/stdin", data=image) == (
        b"/ 4096 41777 3 5 6 0 0.0 - - - user.a=b\n"
        b"/dir 27 40700 2 70000 0 0 0.0 - - -\n"
        b"/file 5 104755 1 0 9 0 0.0 - hello -\n"
    )
    image = output("mkcomposefs", "--skip-xattrs", tree, "-")
    assert b"user.a" not in output("composefs-info", "dump", "/dev/stdin", data=image)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], b"No source path specified"),
        (["d"], b"No destination path specified"),
        (["d", "i", "x"], b"Too many arguments"),
        (["--print-digest-only", "d", "i"], b"Cannot specify destination path with"),
        (["", "i"], b"Empty source path"),
        (["--no-such-option", "d", "i"], b"Usage: "),
        (["--min-version=x", "d", "i"], b"Invalid min version x"),
        (["--max-version=", "d", "i"], b"Invalid max version"),
        (["--min-version=2", "d", "i"], b"no image format"),
        (["--threads=0", "d", "i"], b"Invalid threads count 0"),
        (["--threads=many", "d", "i"], b"Invalid threads count many"),
        (["d", "--threads"], b"option needs a value"),
        (["--skip-xattrs", "--user-xattrs", "d", "i"], b"exclude each other"),
        (["missing", "i"], b"missing: No such file"),
        (["--from-file", "missing", "i"], b"missing: No such file"),
        (["d", "missing/i"], b"No such file"),
    ],
)
def test_wrong_usage(tmp_path: Path, argv: list[str], message: bytes) -> None:
    (tmp_path / "d").mkdir()
    argv = [str(tmp_path / word) if word in ("d", "i", "missing/i") else word for word in argv]
    done = cfs("mkcomposefs", *argv)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stdout == b""
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.glob("should-fail-*.dump")))
def test_refused_dumps_leave_the_image_alone(tmp_path: Path, name: str) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"as it was")
    done = cfs("mkcomposefs", "--from-file", GOLDEN / name, image)
    assert done.returncode == 1
    assert done.stderr.startswith(b"cfs mkcomposefs: ")
    assert f"{name}:2: ".encode() in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert image.read_bytes() == b"as it was"
    assert os.listdir(tmp_path) == ["image"]


def test_image_keeps_its_mode_and_its_symlink(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"")
    real.chmod(0o640)
    link.symlink_to("real")
    output("mkcomposefs", "--from-file", "-", link, data=SAMPLE)
    assert link.is_symlink()
    assert real.stat().st_mode & 0o7777 == 0o640
    assert real.read_bytes() == image_bytes(tree_of(SAMPLE), 0, 1)
    output("mkcomposefs", "--from-file", "-", "/dev/null", data=SAMPLE)


def test_no_image_onto_a_terminal(tmp_path: Path) -> None:
    main, side = pty.openpty()
    paths = [CHECKOUT, os.path.join(CHECKOUT, "repo"), os.path.join(CHECKOUT, "tools")]
    done = subprocess.run(
        [sys.executable, "-m", "cfstools", "mkcomposefs", str(tmp_path), "-"],
        env={**os.environ, "PYTHONPATH": ":".join(paths)},
        stdout=side,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(main)
    os.close(side)
    assert done.returncode == 1
    assert b"stdout is a tty" in done.stderr


def test_strict_parsing_by_environment() -> None:
    argv = ("mkcomposefs", "--from-file", "--print-digest-only", "-")
    assert cfs(*argv, data=SAMPLE[:-1]).returncode == 0
    done = cfs(*argv, data=SAMPLE[:-1], CFS_PARSE_STRICT="1")
    assert done.returncode == 1
    assert b"-:6: no newline at the end" in done.stderr


def test_help_is_no_error() -> None:
    assert output("mkcomposefs", "--help").startswith(b"Usage: cfs mkcomposefs [OPTIONS]")
    assert output("composefs-info", "--help").startswith(b"usage: cfs composefs-info ")


# --- composefs-info ------------------------------------------------------------------------------


def test_ls(image: Path) -> None:
    assert output("composefs-info", "ls", image) == (
        b"/dir/\t\n/dir/a b\n/dir/l\t@ " + OBJECT.encode() + b"\n/file\n/link\t-> tar\\nget\n"
    )
    assert output("composefs-info", "--filter=link", "ls", image) == b"/link\t-> tar\\nget\n"


def test_dump(image: Path) -> None:
    assert output("composefs-info", "dump", image) == dump_bytes(tree_of(SAMPLE))
    both = output("composefs-info", "--filter", "file", "--filter=nothing", "dump", image, image)
    assert [line.split(b" ")[0] for line in both.splitlines()] == [b"/", b"/file"] * 2


def test_objects(image: Path, tmp_path: Path) -> None:
    line = OBJECT.encode() + b"\n"
    assert output("composefs-info", "objects", image, image) == line
    assert output("composefs-info", "--filter=link", "objects", image) == b""
    assert output("composefs-info", "missing-objects", image) == line
    base = tmp_path / "objects"
    base.mkdir()
    assert output("composefs-info", f"--basedir={base}", "missing-objects", image) == line
    (base / "ab").mkdir()
    (base / OBJECT).write_bytes(b"")
    assert output("composefs-info", f"--basedir={base}", "missing-objects", image) == b""


def test_measure_file(image: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    expected = [fsverity.digest(image.read_bytes()).hex(), fsverity.digest(b"").hex()]
    printed = output("composefs-info", "measure-file", image, empty)
    assert printed.decode().split() == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], b"No command specified"),
        (["dump"], b"No image path specified"),
        (["measure-file"], b"No files specified"),
        (["nonsense", "x"], b"Unknown command 'nonsense'"),
        (["--filter=a/b", "dump", "x"], b"Filter must be a single name: a/b"),
        (["--wrong", "dump", "x"], b"usage: "),
        (["dump", "/missing"], b"/missing: No such file"),
        (["ls", "/dev/null"], b"/dev/null: too short"),
        (["measure-file", "/missing"], b"/missing: No such file"),
        (["--basedir=/missing", "missing-objects", "x"], b"/missing: No such file"),
    ],
)
def test_wrong_usage_of_info(argv: list[str], message: bytes) -> None:
    done = cfs("composefs-info", *argv)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stdout == b""


# --- names and peers -----------------------------------------------------------------------------


def test_called_by_the_tools_names(tmp_path: Path, image: Path) -> None:
    paths = [CHECKOUT + below for below in ("", "/repo", "/tools")]
    for name in ("mkcomposefs", "composefs-info"):
        program = tmp_path / name
        program.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path[:0] = {paths}\n"
            "from cfstools.cli import main\nsys.exit(main())\n"
        )
        program.chmod(0o755)
    argv = [str(tmp_path / "mkcomposefs"), "--from-file", "--min-version=1", "-", "-"]
    assert subprocess.run(argv, input=SAMPLE, capture_output=True).stdout == image.read_bytes()
    argv = [str(tmp_path / "composefs-info"), "dump", str(image)]
    assert subprocess.run(argv, capture_output=True).stdout == dump_bytes(tree_of(SAMPLE))
    done = subprocess.run([str(tmp_path / "mkcomposefs"), "/missing", "-"], capture_output=True)
    assert (done.returncode, done.stderr) == (
        1,
        b"mkcomposefs: /missing: No such file or directory\n",
    )


@pytest.mark.interop
@pytest.mark.parametrize(
    "argv",
    [
        ["ls"], ["dump"], ["objects"], ["missing-objects"], ["measure-file"],
        ["--basedir=/", "missing-objects"], ["--filter=etc", "ls"],
        ["--filter", "usr", "--filter=etc", "dump"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_info_prints_what_the_c_tool_prints(peer: Peer, tmp_path: Path, argv: list[str]) -> None:
    program = original(peer("composefs-info"))
    path = tmp_path / "image"
    path.write_bytes(image_bytes(load("config.dump.gz")))
    theirs = subprocess.run([program, *argv, str(path)], capture_output=True, check=True).stdout
    assert output("composefs-info", *argv, path) == theirs


@pytest.mark.interop
@pytest.mark.parametrize(
    "options",
    [
        [], ["--use-epoch"], ["--skip-xattrs"], ["--user-xattrs"], ["--skip-devices"],
        ["--min-version=1"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_directories_give_what_the_c_tool_gives(
    peer: Peer, tmp_path: Path, options: list[str]
) -> None:
    program = original(peer("mkcomposefs"))
    top = tmp_path / "top"
    (top / "dir").mkdir(parents=True)
    for size in (0, 1, 64, 65, 4096, 4097, 2_000_000):
        (top / "dir" / f"{size}").write_bytes(os.urandom(size))
    (top / "link").symlink_to("target")
    os.mkfifo(top / "fifo")
    if os.geteuid() == 0:
        os.setxattr(top / "dir", "trusted.a", b"x")
        os.setxattr(top / "dir" / "1", "user.a", b"x")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    image = output("mkcomposefs", *options, f"--digest-store={ours}", top, "-")
    argv = [program, *options, f"--digest-store={theirs}", str(top), "-"]
    assert subprocess.run(argv, capture_output=True, check=True).stdout == image
    for store in (ours, theirs):
        files = sorted(path for path in store.rglob("*") if path.is_file())
        assert len(files) == 4
        for path in files:
            digest = fsverity.digest(path.read_bytes()).hex()
            assert str(path.relative_to(store)) == f"{digest[:2]}/{digest[2:]}"


# --- dump and import-dump ------------------------------------------------------------------------


def test_a_dump_goes_into_a_repository_and_out_again(tmp_path: Path) -> None:
    source, repo, dump = tmp_path / "source", tmp_path / "repo", tmp_path / "dump"
    source.mkdir()
    (source / "file").write_bytes(b"x" * 100)
    output("--repo", repo, "init")
    image = output("mkcomposefs", "--min-version=1", f"--digest-store={repo}/objects", source, "-")
    text = output("composefs-info", "dump", "/dev/stdin", data=image)
    dump.write_bytes(text)
    printed = output("--repo", repo, "import-dump", dump, "my/image").decode().strip()
    assert printed == fsverity.digest(image).hex()
    assert output("--repo", repo, "dump", "my/image") == text
    assert (
        output("--repo", repo, "import-dump", "-", "again", data=text).decode().strip() == printed
    )
    assert output("--repo", repo, "dump", "--filter=none", "again").count(b"\n") == 1


def test_import_refuses_what_the_repository_cannot_serve(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    output("--repo", repo, "init")
    argv = ("--repo", str(repo), "import-dump", "-", "name")
    done = cfs(*argv, data=SAMPLE)
    assert done.returncode == 3
    assert b"is not in the repository" in done.stderr
    assert cfs("--repo", repo, "dump", "name").returncode == 3
    done = cfs(*argv, data=SAMPLE.replace(b" ab/", b" xx/"))
    assert done.returncode == 4
    assert b"/dir/l: PAYLOAD is not the path of the object" in done.stderr
    digest = b"ab" + b"cd" * 31
    done = cfs(*argv, data=SAMPLE.replace(b" - " + digest + b"\n", b" - -\n"))
    assert done.returncode == 4
    assert b"/dir/l: no digest of fsverity-sha256-12" in done.stderr
    done = cfs(*argv, data=SAMPLE[:40])
    assert done.returncode == 4
    assert output(*argv, "--allow-missing", data=SAMPLE)
    assert output("--repo", repo, "dump", "name") == dump_bytes(tree_of(SAMPLE))
