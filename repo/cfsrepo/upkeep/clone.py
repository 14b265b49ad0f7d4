"""Copying images to another repository: streams, objects, image files and names.

Where the file system can, the data is shared instead of copied: by reflink (separate files on the
same blocks), else by hard link (objects are never modified, so one file can belong to two
repositories). Either way it is checked (`cfsrepo.store.objectcopy`), and objects that are there
already stay.

Everything is stored first, then made visible: `cfsrepo.store.repository` has the order. A clone
that was interrupted is continued by the same command.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from cfsrepo.errors import RepositoryError, UsageError
from cfsrepo.images.names import ImageName
from cfsrepo.progress import NoProgress, Progress
from cfsrepo.store import ocistreams
from cfsrepo.store.objectcopy import Ways, copy_object
from cfsrepo.store.repository import Repository
from cfsrepo.system import pool
from cfsrepo.upkeep.reachability import Marker


@dataclass(slots=True)
class Cloned:
    """What a clone did."""

    images: int = 0
    """Image files made visible, new ones and those that were there."""
    objects: int = 0
    """Objects that the images need."""
    ways: Counter[str] = field(default_factory=Counter)
    """How many of them by way: `present`, `reflink`, `hardlink`, `copy`."""


def clone(
    source: Repository,
    target: Repository,
    images: Iterable[ImageName] | None = None,
    *,
    ways: Ways | None = None,
    progress: Progress | None = None,
) -> Cloned:
    """Copy `images` (None: all that have a name) with their names into `target`.

    `UsageError` where the digest algorithms differ. The source is only read, and may be open for
    reading only.
    """
    if source.algorithm is not target.algorithm:
        raise UsageError(
            f"{target.path}: has {target.algorithm} digests, {source.path} has {source.algorithm}",
            hint="pull the image again: objects have other names there",
        )
    target.check_writable()
    progress = progress or NoProgress()
    tags, image_refs = source.tags(), source.image_refs()
    if images is not None:
        wanted = list(images)
        manifests = {
            ocistreams.MANIFEST_PREFIX + image.manifest_digest
            for image in wanted
            if image.manifest_digest is not None
        }
        ids = {image.image_id for image in wanted}
        tags = {tag: content_id for tag, content_id in tags.items() if content_id in manifests}
        image_refs = {name: image_id for name, image_id in image_refs.items() if image_id in ids}
        # By id, and known from no manifest: the file alone.
        alone = {image.image_id for image in wanted if image.manifest_digest is None}
    else:
        manifests, alone = set(tags.values()), set()
    return _copy(source, target, manifests, tags, image_refs, alone, ways or Ways(), progress)


def _copy(
    source: Repository,
    target: Repository,
    manifests: set[str],
    tags: dict[str, str],
    image_refs: dict[str, str],
    alone: set[str],
    ways: Ways,
    progress: Progress,
) -> Cloned:
    streams, images = source.streams(), source.images()
    for name, wanted in (*tags.items(), *image_refs.items()):
        if wanted not in streams and wanted not in images:
            raise RepositoryError(
                f"{name}: the image is damaged: there is no {wanted}",
                hint="'cfs fsck' tells what else is",
            )
    roots = {content_id: streams[content_id] for content_id in manifests}
    files = [images[image_id] for image_id in {*image_refs.values(), *alone}]
    marked = Marker(source).reach(roots, files)
    result = Cloned(objects=len(marked.live))

    groups: dict[int, list[bytes]] = {}
    for digest in marked.live:
        groups.setdefault(digest[0], []).append(digest)
    task = "objects"
    progress.start(task, len(marked.live), "objects")

    def work(group: list[bytes]) -> Counter[str]:
        mine = Ways(ways.reflink, ways.hardlink)
        return Counter(copy_object(source.objects, target.objects, d, mine) for d in sorted(group))

    for group, done in pool.run(list(groups.values()), work):
        result.ways += done
        progress.advance(task, len(group))
    progress.finish(task)

    visible = {name: digest for name, digest in streams.items() if digest in marked.streams}
    # Manifests last: what they refer to by name is there when they appear.
    ordered = sorted(visible.items(), key=lambda item: item[0] in manifests)
    shown = [digest for digest in images.values() if digest in marked.live]
    target.publish(dict(ordered), shown)
    result.images = len(shown)
    for name, image_id in image_refs.items():
        target.name_image(name, image_id)
    for tag, content_id in tags.items():
        target.tag(tag, content_id)
    return result
