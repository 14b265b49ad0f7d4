"""Small OCI images put into a repository by hand, without a pull."""

from __future__ import annotations

import contextlib
import hashlib
import json
import stat
import subprocess
import sys
from collections.abc import Iterator

from cfsrepo.formats.splitstream import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, SplitStreamWriter
from cfsrepo.formats.tree import Inode, directory
from cfsrepo.images import make
from cfsrepo.images.names import ImageName
from cfsrepo.store import ocistreams
from cfsrepo.store.objects import object_path
from cfsrepo.store.repository import Repository


def oci_digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def documents_of(diff_ids: list[str], note: bytes) -> tuple[bytes, bytes]:
    """Configuration and manifest of an image; `note` makes them differ from other images'."""
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "created": "2026-01-02T03:04:05Z",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "note": note.decode("latin-1"),
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": {"digest": oci_digest(config), "size": len(config)},
            "layers": [
                {"mediaType": "tar", "digest": "sha256:" + "0" * 64, "size": 1000 + number}
                for number in range(len(diff_ids))
            ],
        }
    ).encode()
    return config, manifest


def add_image(
    repo: Repository,
    tag: str | None,
    content: bytes = b"image",
    *,
    image_file: bytes | None = None,
    layers: list[list[bytes]] | None = None,
) -> ImageName:
    """An image with one stream for each of `layers`, lists of the objects' contents."""
    image_file = image_file or b"image file of " + content * 10
    image_digest = repo.objects.put(image_file)
    streams: dict[str, bytes] = {}
    layer_digests: dict[str, bytes] = {}
    for objects in layers or [[content + b" object" * 20]]:
        writer = SplitStreamWriter(repo.algorithm, OCI_LAYER)
        hasher = hashlib.sha256()
        for data in objects:
            header = b"header of %d" % len(data)
            writer.inline(header)
            writer.external(repo.objects.put(data), len(data))
            hasher.update(header + data)
        diff_id = "sha256:" + hasher.hexdigest()
        digest = repo.objects.put(writer.finish())
        streams[ocistreams.LAYER_PREFIX + diff_id] = layer_digests[diff_id] = digest

    config, manifest = documents_of(list(layer_digests), content)
    config_digest, manifest_digest = oci_digest(config), oci_digest(manifest)

    writer = SplitStreamWriter(repo.algorithm, OCI_CONFIG)
    for diff_id, digest in layer_digests.items():
        writer.named_ref(diff_id, digest)
    writer.named_ref(ocistreams.IMAGE_REFS[1], image_digest)
    writer.external(repo.objects.put(config), len(config))
    config_stream = repo.objects.put(writer.finish())
    streams[ocistreams.CONFIG_PREFIX + config_digest] = config_stream

    writer = SplitStreamWriter(repo.algorithm, OCI_MANIFEST)
    writer.named_ref(ocistreams.CONFIG_REF + config_digest, config_stream)
    for diff_id, digest in layer_digests.items():
        writer.named_ref(diff_id, digest)
    writer.external(repo.objects.put(manifest), len(manifest))
    content_id = ocistreams.MANIFEST_PREFIX + manifest_digest
    streams[content_id] = repo.objects.put(writer.finish())

    repo.publish(streams, [image_digest])
    if tag is not None:
        repo.tag(tag, content_id)
    return ImageName(image_digest.hex(), tag or manifest_digest, manifest_digest, config_digest)


def make_tree(files: dict[str, bytes], repo: Repository) -> Inode:
    """A tree with these files (paths without leading slash), big contents stored as objects."""
    root = directory()
    for path, content in files.items():
        *parents, name = path.encode().split(b"/")
        at = root
        for parent in parents:
            assert at.entries is not None
            at = at.entries.setdefault(parent, directory())
        inode = Inode(stat.S_IFREG | 0o644, size=len(content))
        if len(content) <= 64:
            inode.content = content
        else:
            inode.digest = repo.objects.put(content)
            inode.payload = object_path(inode.digest).encode()
        assert at.entries is not None
        at.entries[name] = inode
    return root


def make_image_file(files: dict[str, bytes], repo: Repository) -> bytes:
    """An image file with these files, which are stored."""
    return make.make_image(make_tree(files, repo), maker=make.Maker.BUILTIN)


def add_files(repo: Repository, tag: str | None, files: dict[str, bytes]) -> ImageName:
    """An OCI image of one layer with these files, as a pull leaves it (but for the tar)."""
    big = [content for content in files.values() if len(content) > 64]
    return add_image(
        repo,
        tag,
        repr(sorted(files.items())).encode()[:1000],
        image_file=make_image_file(files, repo),
        layers=[big],
    )


@contextlib.contextmanager
def image_held(repo: Repository, image_id: str) -> Iterator[None]:
    """Another process that has the image mapped, as a server has, and not the repository open."""
    program = (
        "import sys\n"
        "from cfsrepo.store.repository import Repository\n"
        "repo = Repository.open(sys.argv[1])\n"
        "image = repo.open_image(sys.argv[2])\n"
        "repo.close()\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, repo.path, image_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        try:
            yield
        finally:
            process.stdin.close()
