"""Finding out whether an image has any extended attribute that a mount would show.

Most images have none, and then a server may say once and for all that there are none (ENOSYS):
the kernel would else ask three names for each file of an `ls -l`, and never remember the answer. To
be sure, every inode must have been looked at; that is done in small steps between requests, so that
a mount of a million files does not start later for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cfsfuse.view import ImageView
from cfsrepo.erofs import layout
from cfsrepo.errors import InputError

_STEP: Final = 128  # inodes


class XattrScan:
    """Looks through `view` in steps. `trusted`: attributes of the class `trusted` count."""

    def __init__(self, view: ImageView, *, trusted: bool) -> None:
        self.found_none = False
        """Whether all of the image was seen and has no visible attribute."""
        self._steps: Iterator[bool] | None = _look(view, trusted)

    @property
    def running(self) -> bool:
        """Whether there is something left for `step()` to do."""
        return self._steps is not None

    def step(self) -> None:
        """Look at some more inodes; costs nothing when the answer is known."""
        if self._steps is None:
            return
        try:
            for _ in range(_STEP):
                if next(self._steps):
                    self._steps = None
                    return
        except StopIteration:
            self.found_none = True
            self._steps = None
        except InputError:
            # What is damaged may hide attributes: then each inode is asked for itself.
            self._steps = None


def _look(view: ImageView, trusted: bool) -> Iterator[bool]:
    """For each inode, whether it has visible attributes."""
    yield view.has_xattrs(view.root, trusted=trusted)
    seen = {view.root}
    pending = [view.root]
    while pending:
        for _, name, nid, kind in view.image.readdir(pending.pop()):
            if kind == layout.FT_DIR:
                if nid in seen or name in (b".", b".."):
                    continue
                seen.add(nid)
                pending.append(nid)
            yield view.has_xattrs(nid, trusted=trusted)
