"""Images as ordinary directories, edited without root."""

from __future__ import annotations

from cfstools.options import Argument, Command, Example, Option
from cfstools.options.common import IMAGE, JSON, LIMITS, XATTRS

_NEW_DIRECTORY = Argument("directory", "DIR", "an empty or new directory", completes="directory")
_FILES = Argument("files", "FILE", "files of the directory", nargs="+", completes="file")

_META_ACTIONS = (
    Command(
        "show",
        arguments=(_FILES,),
        options=(Option(("-r", "--recursive"), "and of all that is below"), JSON),
        summary="print records, a line a file",
    ),
    Command(
        "set",
        arguments=(_FILES,),
        options=(
            Option(("--mode",), "permission bits, octal: 4755", value="MODE"),
            Option(("--uid",), "user id of the owner", value="N"),
            Option(("--gid",), "group id of the owner", value="N"),
            Option(
                ("--type",),
                "what the file stands for",
                value="TYPE",
                choices=("file", "dir", "symlink", "char", "block", "fifo", "socket"),
            ),
            Option(("--device",), "with --type=char or block", value="MAJOR:MINOR"),
            Option(("--mtime",), "time of the last change", value="SECONDS[.FRACTION]"),
            Option(
                ("--xattr",),
                "an extended attribute; VALUE is text, 0xHEX or 0sBASE64, as setfattr has it",
                value="NAME=VALUE",
                repeated=True,
            ),
            Option(
                ("--remove-xattr",), "remove an extended attribute", value="NAME", repeated=True
            ),
        ),
        summary="change records, or give files one",
    ),
    Command(
        "check",
        arguments=(Argument("directory", "DIR", "the directory to check", completes="directory"),),
        options=(JSON,),
        summary="look for records that are damaged or do not fit",
    ),
)

COMMANDS = (
    Command(
        "checkout",
        arguments=(
            IMAGE,
            _NEW_DIRECTORY,
            Argument("paths", "PATH", "only these, and what is below them", nargs="*"),
        ),
        options=(
            Option(("--no-verify",), "do not check contents against their digests (faster)"),
            Option(
                ("--force",),
                "replace what an earlier checkout or unpack made of DIR, finished or not, with all "
                "edits; any other directory is left alone",
            ),
        ),
        examples=(
            Example("cfs checkout debian tree", "write the image as a directory"),
            Example("cfs checkout --force debian tree", "begin again"),
        ),
    ),
    Command(
        "status",
        arguments=(
            Argument(
                "directory",
                "DIR",
                "what 'cfs checkout' or 'cfs unpack' made",
                completes="directory",
            ),
        ),
        options=(
            Option(
                ("--base",),
                "compare with IMAGE (default: the image that DIR was checked out from)",
                value="IMAGE",
                completes="image",
            ),
            JSON,
        ),
        description="Directories of which only the time is new are left out. A file that was not "
        "touched since the checkout, as its ctime says, is not read.",
        examples=(
            Example("cfs status tree", "show what was changed since the checkout"),
            Example("cfs status tree --base debian", "compare with an image"),
        ),
    ),
    Command(
        "unpack",
        arguments=(
            Argument(
                "layers",
                "LAYER.tar",
                "a layer, packed by gzip, zstd or not; the first is the lowest",
                nargs="+",
                completes="file",
            ),
            _NEW_DIRECTORY,
        ),
        options=(XATTRS, *LIMITS),
        examples=(Example("cfs unpack base.tar.gz top.tar.zst tree", "write two layers"),),
    ),
    Command(
        "meta",
        actions=_META_ACTIONS,
        examples=(
            Example("cfs meta set --mode 4755 tree/usr/bin/su", "make a file setuid in the image"),
            Example("cfs meta check tree", "check all records of the directory"),
        ),
    ),
    Command(
        "commit",
        arguments=(
            Argument(
                "directory",
                "DIR",
                "what 'cfs checkout' or 'cfs unpack' made",
                completes="directory",
            ),
            Argument("name", "NAME", "what to call the image", nargs="?"),
        ),
        options=(
            Option(
                ("--base",),
                "files without a record have the owner and rights of the same path in IMAGE",
                value="IMAGE",
                completes="image",
            ),
            Option(
                ("--oci",),
                "make an OCI image: the layers of --base and one with the difference",
            ),
            XATTRS._replace(help=f"with --oci: {XATTRS.help}"),
            Option(
                ("--adopt",),
                "make files of DIR that have a record objects of the repository by hard links "
                "instead of copying them; they must not be edited in place afterwards, only "
                "replaced or removed",
            ),
            JSON,
        ),
        examples=(
            Example("cfs commit tree edited", "make an image of the directory"),
            Example(
                "cfs commit --oci --base debian tree edited",
                "make an OCI image, one layer more",
            ),
        ),
    ),
)
