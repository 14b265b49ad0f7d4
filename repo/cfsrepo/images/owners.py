"""Which owner a mount shows for an owner in the image.

Either one owner for everything (`--uid`, `--gid`), or ranges of ids moved, as an idmapped mount
of the kernel moves them (`--idmap`). An id outside all ranges is shown as the overflow id 65534.
"""

from __future__ import annotations

from dataclasses import dataclass

from cfsrepo.errors import UsageError

OVERFLOW_ID = 65534
_ID_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Range:
    """`count` ids from `image` on are shown as ids from `mount` on."""

    image: int
    mount: int
    count: int


@dataclass(frozen=True, slots=True)
class Owners:
    """The change of owners of a mount. The default changes nothing."""

    uid: int | None = None
    gid: int | None = None
    uid_ranges: tuple[Range, ...] = ()
    gid_ranges: tuple[Range, ...] = ()

    @property
    def unchanged(self) -> bool:
        """Whether every owner is shown as the image has it."""
        return self.uid is None and self.gid is None and not self.uid_ranges and not self.gid_ranges

    def shown(self, uid: int, gid: int) -> tuple[int, int]:
        """The (uid, gid) that stand for those of the image."""
        return (
            _shift(uid, self.uid_ranges) if self.uid is None else self.uid,
            _shift(gid, self.gid_ranges) if self.gid is None else self.gid,
        )


AS_IN_IMAGE = Owners()


def parse_idmap(text: str) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    """The (uid ranges, gid ranges) of an `--idmap` value.

    Words separated by space or comma, each `[TYPE:]IMAGE:MOUNT:COUNT`; TYPE is `u`, `g` or `b`
    (both, the default), as in `X-mount.idmap` of mount(8). Raises `UsageError`.
    """
    uid_ranges: list[Range] = []
    gid_ranges: list[Range] = []
    for word in text.replace(",", " ").split():
        kind, _, rest = word.partition(":") if word[0] in "ugb" else ("b", "", word)
        try:
            image, mount, count = (int(part) for part in rest.split(":"))
        except ValueError:
            raise UsageError(
                f"--idmap: {word}: not of the form [u:|g:|b:]IMAGE:MOUNT:COUNT"
            ) from None
        if min(image, mount) < 0 or count < 1 or max(image, mount) + count - 1 > _ID_MAX:
            raise UsageError(f"--idmap: {word}: ids go from 0 to {_ID_MAX}")
        for ranges, kinds in ((uid_ranges, "ub"), (gid_ranges, "gb")):
            if kind in kinds:
                ranges.append(Range(image, mount, count))
    if not uid_ranges and not gid_ranges:
        raise UsageError("--idmap: no range given")
    return tuple(uid_ranges), tuple(gid_ranges)


def _shift(number: int, ranges: tuple[Range, ...]) -> int:
    if not ranges:
        return number
    for item in ranges:
        if item.image <= number < item.image + item.count:
            return number - item.image + item.mount
    return OVERFLOW_ID
