"""`cfs mkcomposefs`: composefs's program of that name, argument for argument.

Also the program itself, when `cfs` is called `mkcomposefs`. Output and exit status are those of the
C tool; three things are better here: IMAGE is replaced when the new image is complete (the C tool
has emptied it by the time it finds an error), directories keep their hard links, and a bare-user
tree (`cfs checkout`, `cfs unpack`) is taken for what its records say.
"""

from __future__ import annotations

import getopt
import os
import stat
import sys
import tempfile
from dataclasses import dataclass

from cfsrepo.errors import UsageError
from cfsrepo.formats import fsverity
from cfsrepo.formats.dumpreader import read_dump
from cfsrepo.formats.erofs.layout import VERSION_MAX
from cfsrepo.formats.fsverity import Algorithm, VerityPolicy
from cfsrepo.formats.tree import Inode, walk
from cfsrepo.images.make import make_image
from cfsrepo.store.objects import ObjectStore
from cfsrepo.system import linux
from cfsrepo.worktree import checkoutmark
from cfsrepo.worktree.attributes import is_bare_user
from cfsrepo.worktree.filemetadata import AsOnDisk, KeptXattrs
from cfsrepo.worktree.scan import scan_bare_tree, scan_directory

USAGE = """\
Usage: {prog} [OPTIONS] SOURCE IMAGE
Options:
  --digest-store=PATH   Store content files in this directory
  --use-epoch           Make all mtimes zero
  --skip-devices        Don't store device nodes
  --skip-xattrs         Don't store file xattrs
  --user-xattrs         Only store user.* xattrs
  --print-digest        Print the digest of the image
  --print-digest-only   Print the digest of the image, don't write image
  --from-file           The source is a dump file, not a directory
  --min-version=N       Use this minimal format version (default=0)
  --max-version=N       Use this maximum format version (default=1)
  --threads=N           Use this to override the default number of threads used to calculate \
digest and copy files (default={threads})
"""

_OPTIONS = [
    "skip-xattrs", "user-xattrs", "skip-devices", "use-epoch", "digest-store=", "print-digest",
    "print-digest-only", "from-file", "max-version=", "min-version=", "threads=", "help",
]  # fmt: skip


@dataclass(slots=True)
class _Options:
    source: str = ""
    image: str | None = None  # None: only the digest is wanted
    from_file: bool = False
    digest_store: str | None = None
    print_digest: bool = False
    use_epoch: bool = False
    skip_devices: bool = False
    skip_xattrs: bool = False
    user_xattrs: bool = False
    min_version: int = 0
    max_version: int = 1
    threads: int = 1


def main(argv: list[str], prog: str = "mkcomposefs") -> int:
    """Run with the arguments of the C tool. Raises CfsError and OSError."""
    usage = USAGE.format(prog=prog, threads=_cpus())
    try:
        parsed, words = getopt.gnu_getopt(argv, "", _OPTIONS)
    except getopt.GetoptError as error:
        if "requires argument" in error.msg:
            raise UsageError("option needs a value") from None
        sys.stderr.write(usage)
        return 1
    if any(option == "--help" for option, _ in parsed):
        sys.stdout.write(usage)
        return 0
    options = _parse(parsed)
    only_digest = any(option == "--print-digest-only" for option, _ in parsed)
    if not words:
        complaint = "No source path specified"
    elif words[0] == "":
        raise UsageError("Empty source path specified")
    elif len(words) > 2:
        complaint = "Too many arguments"
    elif len(words) == 1 and not only_digest:
        complaint = "No destination path specified"
    elif len(words) == 2 and only_digest:
        complaint = "Cannot specify destination path with --print-digest-only"
    else:
        options.source = words[0]
        options.image = None if only_digest else words[1]
        return _run(options)
    sys.stderr.write(f"{complaint}\n{usage}")
    return 1


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


def _parse(parsed: list[tuple[str, str]]) -> _Options:
    options = _Options(threads=_cpus())
    versions: dict[str, int] = {}
    for option, value in parsed:
        if option == "--digest-store":
            options.digest_store = value
        elif option in ("--print-digest", "--print-digest-only"):
            options.print_digest = True
        elif option in ("--min-version", "--max-version"):
            versions[option] = _integer(value, f"{option[2:5]} version")
        elif option == "--threads":
            options.threads = _integer(value, "threads count")
            if options.threads <= 0:
                raise UsageError(f"Invalid threads count {value}")
        else:
            setattr(options, option[2:].replace("-", "_"), True)
    if versions:  # given one, the other is 0, as in the C tool; the higher one counts
        options.min_version = versions.get("--min-version", 0)
        options.max_version = max(versions.get("--max-version", 0), options.min_version)
    if options.min_version < 0 or options.max_version > VERSION_MAX:
        raise UsageError(
            f"there is no image format {options.min_version}..{options.max_version} here",
            hint=f"versions are 0 to {VERSION_MAX}",
        )
    return options


def _integer(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"Invalid {what} {text}") from None


def _run(options: _Options) -> int:
    if options.image == "-" and sys.stdout.isatty():
        raise UsageError("stdout is a tty.  Refusing to use it")
    image = make_image(
        _load(options), min_version=options.min_version, max_version=options.max_version
    )
    digest = fsverity.digest(image).hex() if options.print_digest else None
    if options.image == "-":
        sys.stdout.buffer.write(image)
    elif options.image is not None:
        _write(options.image, image)
    if digest is not None:
        sys.stdout.buffer.write(digest.encode() + b"\n")
    sys.stdout.buffer.flush()
    return 0


def _load(options: _Options) -> Inode:
    if options.from_file:
        strict = "CFS_PARSE_STRICT" in os.environ
        if options.source == "-":
            return read_dump(sys.stdin.buffer, "-", strict=strict)
        with open(options.source, "rb") as stream:
            return read_dump(stream, options.source, strict=strict)
    if options.skip_xattrs and options.user_xattrs:
        raise UsageError("--skip-xattrs and --user-xattrs exclude each other")
    kept = KeptXattrs.ALL
    if options.skip_xattrs:
        kept = KeptXattrs.NONE
    elif options.user_xattrs:
        kept = KeptXattrs.USER
    store = None
    if options.digest_store is not None:
        os.makedirs(options.digest_store, exist_ok=True)
        store = ObjectStore(options.digest_store, Algorithm.SHA256, VerityPolicy.TRY)
    try:
        checkoutmark.check_finished(options.source)
        if is_bare_user(options.source):
            tree = scan_bare_tree(options.source, store=store, workers=options.threads).root
            _reduce(tree, options, kept)
        else:
            metadata = AsOnDisk(
                kept, use_epoch=options.use_epoch, skip_devices=options.skip_devices
            )
            tree = scan_directory(options.source, metadata, store=store, workers=options.threads)
        if store is not None:
            linux.syncfs(store.dir_fd)
    finally:
        if store is not None:
            store.close()
    return tree


def _reduce(root: Inode, options: _Options, kept: KeptXattrs) -> None:
    """Take out of a tree what the options say; `scan_directory` does not take it in."""
    for _, inode in walk(root):
        if options.use_epoch:
            inode.mtime_sec = inode.mtime_nsec = 0
        if kept is not KeptXattrs.ALL and inode.xattrs:
            user = {key: value for key, value in inode.xattrs.items() if key.startswith(b"user.")}
            inode.xattrs = user if kept is KeptXattrs.USER else None
        if options.skip_devices and inode.entries:
            inode.entries = {
                name: below for name, below in inode.entries.items() if not below.is_device
            }


def _write(path: str, image: bytes) -> None:
    """Replace the file `path`, whole or not at all; what is no regular file is written into."""
    path = os.path.realpath(path)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG | 0o666 & ~_umask()
    if not stat.S_ISREG(mode):
        with open(path, "wb") as file:
            file.write(image)
        return
    with tempfile.NamedTemporaryFile(
        dir=os.path.dirname(path), prefix=".tmp-", delete=False
    ) as new:
        try:
            new.write(image)
            new.flush()
            os.fchmod(new.fileno(), stat.S_IMODE(mode))
            os.rename(new.name, path)
        except BaseException:
            os.unlink(new.name)
            raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
