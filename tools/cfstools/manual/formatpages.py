"""Man pages of formats: cfs-image(5), user.cfs.meta(5)."""

from __future__ import annotations

from cfstools.manual import roff

_IMAGE = """
An image is one file: the metadata of a whole file system tree as an EROFS file system, with the
contents of its small files. The contents of other files are objects: files of an object directory
that are named by the fs-verity digest of their content. The image id is the fs-verity digest of the
image file, in hexadecimal, so that an id stands for all metadata and, through the digests in the
image, for every byte of every file.

The file is byte for byte what mkcomposefs(1) makes of the same tree with --min-version=1. It is
made of blocks of 4096 bytes, little endian:

    0           header of composefs: magic 0xd078629a, header version 1, flags, composefs version
    1024        superblock of EROFS: magic 0xe0f5e1e2
    1152        inodes, each with its extended attributes and its inline tail
    after them  extended attributes that more than one inode has
    blocks      what is too large for a tail

A regular file of at most 64 bytes is inside the image. Any other regular file has a size, no data,
and two extended attributes by which overlayfs finds its object and checks it:
trusted.overlay.redirect has the object's path (/XX/REST, the digest in hexadecimal), and
trusted.overlay.metacopy its digest.

The kernel mounts an image as a read-only EROFS file system, and on top of it overlayfs with the
object directory as a data-only lower layer; cfs-mount(1) does so as root, and mount.composefs too.
FUSE mounts, cfs-ls(1) and cfs-cat(1) read the same file in user space.
"""
_FROM_OCI = """
An image that is made of OCI layers is the merged tree, by the rules of composefs-rs, so that cfsctl
gives the same id: whiteouts and opaque directories are applied; of directories the metadata
of the highest layer counts; the root has the metadata of /usr; /run is empty; times are in whole
seconds; of extended attributes only security.capability is kept. Extended attributes user.cfs.* are
never kept, since a layer could forge the owner of a file with them.
"""
_REPOSITORY = """
    meta.json                what the repository is: algorithm, versions, features
    objects/XX/REST          content, by fs-verity digest
    images/HEX               links to the objects that are images; only these are mounted
    images/refs/NAME         names of images
    streams/CONTENT_ID       links to OCI manifests, configs, layers and blobs, as split streams
    streams/refs/oci/TAG     tags of OCI images
    cfsfuse/                 what only cfs knows: pins, hash trees of large objects, policy

This is the repository of composefs-rs, version 1.
"""
_RECORD = """
A bare-user tree is an ordinary directory, owned by its user, that stands for the tree of an image.
What the user may not set (owners, set-user-id bits, device nodes, security attributes) is kept in
the extended attribute user.cfs.meta of each file and directory. cfs-checkout(1) and cfs-unpack(1)
make such trees; cfs-meta(1) shows and changes records; cfs-commit(1) makes an image of a tree.

A record is one line of ASCII without a newline, its fields separated by one space:

    1 MODE UID GID RDEV MTIME [KEY=VALUE ...]
"""
_FIELDS = (
    ("1", "The version of the format."),
    ("MODE", "File type and permission bits, octal, without a leading zero: 104755."),
    ("UID GID", "Owner and group, decimal, at most 4294967295."),
    ("RDEV", "The number of a character or block device, decimal, else 0."),
    (
        "MTIME",
        "Seconds, a point, nanoseconds. The nanoseconds are a count: 1.5 is five nanoseconds after "
        "one second.",
    ),
    (
        "KEY=VALUE",
        "An extended attribute, sorted by KEY bytewise; escaped as in composefs-dump(5), "
        "and = too.",
    ),
)
_RULES = """
A record has one spelling only: a reader refuses an unknown version, numbers with leading zeros,
attributes that are not sorted, and a file type that contradicts the file. Two records say the same
if and only if they are the same bytes. Attributes user.cfs.* cannot be in a record.
"""
_ENTRIES = (
    (
        "regular file",
        "A regular file with its content. Its mode on disk never has more than 0755, and at least "
        "0600.",
    ),
    ("directory", "A directory, with at least 0700."),
    ("symbolic link", "One of 0:0 without extended attributes: a symbolic link without a record."),
    ("other symbolic link", "A regular file whose content is the target."),
    ("device, FIFO, socket", "An empty regular file."),
    ("hard links", "Hard links; they share one record."),
)
_EDITED = """
A file without a record, as an editor or a compiler makes it, is committed as owned by 0:0 with its
mode on disk, or with the metadata of the same path of the base image where one is given. MTIME
holds as long as the time of the file itself still equals it; after an edit the file's own time
counts.
"""
_LIMITS = """
The file system limits the size of a record: on ext4 all extended attributes of a file share a block
(4036 bytes for a record alone), on btrfs 15716 bytes, on xfs and tmpfs (Linux 6.6 or later) 65536.
A file without other attributes needs about 40 bytes.
"""


def image() -> str:
    """cfs-image(5)."""
    lines = roff.page("cfs-image", 5, "image files and repositories of cfs")
    lines += [*roff.heading("Description"), *roff.paragraphs(_IMAGE)]
    lines += [*roff.heading("Images from OCI layers"), *roff.paragraphs(_FROM_OCI)]
    lines += [*roff.heading("Repository"), *roff.paragraphs(_REPOSITORY)]
    lines += roff.see_also(
        ["cfs(1)", "cfs-mount(1)", "cfs-dump(1)", "composefs-dump(5)", "mkcomposefs(1)"]
    )
    return roff.finish(lines)


def record() -> str:
    """user.cfs.meta(5)."""
    lines = roff.page("user.cfs.meta", 5, "metadata of files in a bare-user tree")
    lines += [*roff.heading("Description"), *roff.paragraphs(_RECORD), *roff.terms(_FIELDS)]
    lines += roff.paragraphs(_RULES)
    lines += [*roff.heading("Files in a bare-user tree"), *roff.terms(_ENTRIES)]
    lines += roff.paragraphs(_EDITED)
    lines += [*roff.heading("Limits"), *roff.paragraphs(_LIMITS)]
    lines += roff.see_also(
        ["cfs-checkout(1)", "cfs-commit(1)", "cfs-meta(1)", "composefs-dump(5)", "xattr(7)"]
    )
    return roff.finish(lines)
