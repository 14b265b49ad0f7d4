"""Writing an object that comes in pieces."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from cfsrepo.formats.fsverity import Buffer, Hasher
from cfsrepo.store.temporary import write_all
from cfsrepo.system.closing import Closing

if TYPE_CHECKING:
    from cfsrepo.store.objects import ObjectStore

TREE_MIN: Final = 1 << 20
"""Objects above this size have a Merkle tree kept for them (`cfsrepo.store.merkle`)."""
_LEAVES_MAX: Final = 64 << 20  # bytes of hashes in memory; of a larger object, later


class ObjectWriter(Closing):
    """One object that comes in pieces; hashed and written as they come, in bounded memory.

    A context manager: leaving it without `commit` abandons what was written.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._leaves: bytearray | None = None if store.keep_tree is None else bytearray()
        self._hasher = Hasher(store.algorithm, None if self._leaves is None else self._keep_leaves)
        self._draft = store.draft(".")

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._hasher.size

    def write(self, chunk: Buffer) -> None:
        """Append `chunk`."""
        self._hasher.update(chunk)
        try:
            write_all(self._draft.fd, chunk)
        except OSError as error:
            raise self._store.failed(error) from error

    def write_hole(self, length: int) -> None:
        """Append `length` zeros that take no room on disk and next to no time."""
        self._hasher.update_zeros(length)
        try:
            os.ftruncate(self._draft.fd, self.size)
            os.lseek(self._draft.fd, 0, os.SEEK_END)
        except OSError as error:
            raise self._store.failed(error) from error

    def _keep_leaves(self, hashes: bytes) -> None:
        if self._leaves is not None:
            self._leaves += hashes
            if len(self._leaves) > _LEAVES_MAX:
                self._leaves = None

    def digest(self) -> bytes:
        """The digest of what was written so far."""
        return self._hasher.digest()

    def commit(self) -> bytes:
        """Complete the object; returns its digest."""
        digest = self._hasher.digest()
        store = self._store
        try:
            if store.complete(self._draft, digest, self._hasher.size):
                self._store_tree(digest)
        except OSError as error:
            raise store.failed(error) from error
        finally:
            self._draft.discard()
        return digest

    def _store_tree(self, digest: bytes) -> None:
        """Keep the hashes of a large object's blocks, where the kernel does not check them."""
        store = self._store
        if store.keep_tree is None or self._leaves is None or store.verity:
            return
        if self.size > TREE_MIN:
            store.keep_tree(self.size, digest, bytes(self._leaves) + self._hasher.last_leaf())

    def close(self) -> None:
        """Abandon what was written and not committed."""
        self._draft.discard()
