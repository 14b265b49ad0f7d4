"""One layer into the object store: unpack, check, split, store, all while the bytes stream by.

Two threads share the work. One reads the blob, hashes it, unpacks it and hashes what comes out:
all of that runs without the interpreter's lock, in chunks of about 1 MiB. The other walks the
archive, stores the files and makes the split stream. Memory: a few chunks, and the split stream's
references.

Nothing here makes a layer visible; the result is an object that nothing refers to yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cfsrepo.errors import DigestMismatchError, InputError
from cfsrepo.formats.splitstream import OCI_LAYER, Digest, SplitStreamWriter
from cfsrepo.formats.tar.headerfields import BLOCK
from cfsrepo.formats.tar.stream import TarStream
from cfsrepo.oci.decompress import decompress
from cfsrepo.oci.documents import LAYER_TYPES
from cfsrepo.oci.feed import Feed
from cfsrepo.oci.layers import expand
from cfsrepo.oci.limits import Budget, Limits
from cfsrepo.oci.merge import INLINE_MAX, Content
from cfsrepo.oci.transports.blob import Blob
from cfsrepo.store.objects import ObjectStore

_CHUNK_MAX = 8 << 20  # bytes of a split stream between two objects, before it is cut


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A layer in the object store: its split stream's digest, and what was seen on the way."""

    digest: bytes
    size: int
    """Bytes of the archive."""
    files: int
    """Files that became objects of their own."""


Amounts = tuple[int, int]
"""Bytes of a blob that were read, bytes of the archive (and of holes) that came out of them."""


def import_layer(
    blob: Blob,
    diff_id: str,
    objects: ObjectStore,
    limits: Limits,
    report: Callable[[Amounts], object],
) -> StoredLayer:
    """Store the layer that is packed in `blob` and whose archive has the digest `diff_id`.

    `report` is told how far it is, now and then, from this thread. Raises InputError for a blob or
    an archive that is damaged, LimitError for one that asks for too much, DigestMismatchError where
    one of the two digests is not what was promised, OSError where it cannot be stored.
    """
    writer = SplitStreamWriter(objects.algorithm, OCI_LAYER)
    budget = Budget(limits)
    files = 0

    def count(read: int, unpacked: int) -> None:
        budget.add_bytes(unpacked, blob.name)
        report((read, unpacked))

    def take_header(data: bytes) -> None:
        # Padding is less than a block. Readers want a member's headers and data in one chunk.
        if len(data) >= BLOCK and writer.pending > _CHUNK_MAX:
            writer.end_chunk()
        writer.inline(data)

    with Feed(_archive(blob, diff_id), interrupt=blob.interrupt) as feed:
        stream = TarStream(feed.chunks(count), blob.name, on_header=take_header)
        while (member := stream.next()) is not None:
            budget.add_member(member, blob.name)
            if member.sparse is not None:
                count(0, member.size - member.stored)
            content: Content = None
            data = stream.take_data()
            if member.stored > INLINE_MAX:
                if data is not None:
                    content = Digest(objects.put(data))
                else:
                    with objects.writer() as out:
                        for piece in stream.read_data():
                            out.write(piece)
                        content = Digest(out.commit())
                writer.external(content, member.stored)
                files += 1
            elif member.stored:
                content = b"".join(stream.read_data()) if data is None else data
                writer.inline(content)
            if member.sparse is not None:
                # The image will need the whole file, which is no literal part of the archive.
                whole = expand(content, member.sparse, member.size, objects)
                if isinstance(whole, Digest):
                    writer.keep(whole)
    with objects.writer() as out:
        writer.finish_to(out.write)
        return StoredLayer(out.commit(), feed.size, files)


def _archive(blob: Blob, diff_id: str) -> Iterator[tuple[bytes, int]]:
    """The archive in `blob`, in chunks, each with the blob's position; ends only if blob and
    archive were what was promised."""
    algorithm, _, wanted = diff_id.partition(":")
    archive = hashlib.new(algorithm)
    try:
        for chunk in decompress(blob, LAYER_TYPES[blob.descriptor.media_type]):
            archive.update(chunk)
            yield chunk, blob.position
    except InputError:
        # If the blob is not the one that was promised, that is the better explanation.
        blob.finish()
        raise
    blob.finish()
    if archive.hexdigest() != wanted:
        raise DigestMismatchError(
            f"{blob.name}: unpacked it has the digest {algorithm}:{archive.hexdigest()}, "
            f"but the configuration says {diff_id}",
            hint="manifest and configuration do not belong together, or the layer was changed",
        )
    yield b"", blob.position
