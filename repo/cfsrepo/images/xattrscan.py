"""Finding out which extended attributes an image has at all.

The kernel asks for two or three names for each file of an `ls -l`, and never remembers that one is
not there. An image without any attribute that a mount would show is answered once and for all
(ENOSYS). In one that has some, a whole class that no inode has, SELinux labels or ACLs, is "not
supported": `ls` and its like stop asking for it, and it is what the kernel says of ACLs, too.

To be sure, every inode must have been looked at; that is done in small steps, one with each request
for an attribute: who asks for none pays nothing, and no mount starts later for it.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from typing import Final

from cfsrepo.errors import InputError
from cfsrepo.formats.erofs import layout
from cfsrepo.formats.erofs.imagewalk import Entry, ImageWalk
from cfsrepo.images.view import ImageView

_STEP: Final = 256  # inodes
_CLASSES: Final = frozenset({b"security.selinux", layout.ACL_ACCESS, layout.ACL_DEFAULT})


class XattrScan:
    """Looks through `view` in steps. `trusted`: attributes of the class `trusted` count."""

    def __init__(self, view: ImageView, *, trusted: bool) -> None:
        self._view = view
        self._trusted = trusted
        self._names: set[bytes] = set()
        self._complete = False
        self._inodes: Iterator[Entry] | None = ImageWalk(view.image).entries(view.root)
        self._lock = threading.Lock()

    def refusal(self, name: bytes) -> int:
        """The errno for a getxattr(2) of `name` on any inode; 0 where the inode must be asked."""
        # One thread at a time looks on; the others do not wait for it.
        if self._inodes is not None and self._lock.acquire(blocking=False):
            try:
                self._step()
            finally:
                self._lock.release()
        if not self._complete:
            return 0
        if not self._names:
            return errno.ENOSYS
        return errno.EOPNOTSUPP if name in _CLASSES and name not in self._names else 0

    def _step(self) -> None:
        """Look at some more inodes."""
        if self._inodes is None:
            return
        view, trusted = self._view, self._trusted
        try:
            for _ in range(_STEP):
                inode = next(self._inodes).info
                if inode.xattr_icount:
                    self._names.update(view.xattrs(inode.nid, trusted=trusted))
        except StopIteration:
            self._complete = True
            self._inodes = None
        except InputError:
            # What is damaged may hide attributes: then each inode is asked for itself.
            self._inodes = None
