"""A repository: images, streams and the objects they are made of, shared with cfsctl.

    meta.json                what the repository is (`cfsrepo.formats.metajson`)
    objects/XX/REST          content by fs-verity digest (`cfsrepo.store.objects`)
    images/HEX               -> ../objects/XX/REST: an image file (EROFS); only these are mounted
    images/refs/NAME         -> ../HEX: a name, keeps the image
    streams/CONTENT_ID       -> ../objects/XX/REST: a split stream (`cfsrepo.formats.splitstream`)
    streams/refs/oci/TAG     -> ../../oci-manifest-sha256:HEX: a tag, keeps all the image needs
    cfsfuse/                 what only this program knows; others ignore it
    cfsfuse/verity           the policy: require, try or off
    cfsfuse/downloads/       what was received of layers (`cfsrepo.oci.transports.downloads`)
    cfsfuse/turnstile        empty; see `cfsrepo.store.locks`

CONTENT_ID is `oci-manifest-DIGEST`, `oci-config-DIGEST`, `oci-layer-DIFFID` or `oci-blob-DIGEST`.
A manifest's stream names its config's stream `config:DIGEST` and the layers' by diff id; a config's
stream names the layers' and the image file: `composefs.image.v1`, or `composefs.image` for
version 2.

Locks (`cfsrepo.store.locks`): shared as long as the repository is open, exclusive while something
is removed. So what was seen stays there until `close`, and only new things appear: who combines two
readings looks first at what refers, then at what is referred to. A long-lived reader (a mount)
gives the lock back with `release_lock`; its open image file and its pin keep the image
(`cfsrepo.upkeep.inuse`).

Durability: objects first, then one syncfs, then the links that make them visible, then the tag.
A process killed at any instant leaves a sound repository, possibly with garbage.

The policy `require` is cfsctl's secure mode: meta.json itself has fs-verity. It is recorded in
`cfsfuse/verity` too, so that a copy that lost fs-verity is noticed instead of trusted.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol, Self

from cfsrepo.errors import NotFoundError, RepositoryError, SystemFailure, UsageError, VerityError
from cfsrepo.formats import metajson
from cfsrepo.formats.fsverity import Algorithm, Buffer, VerityPolicy
from cfsrepo.formats.metajson import RepositoryMeta
from cfsrepo.formats.splitstream import SplitStream
from cfsrepo.store import kernelverity, locks, merkle, metafiles, ocistreams, refs
from cfsrepo.store.merkle import MerkleStore
from cfsrepo.store.metafiles import PRIVATE_DIRECTORY
from cfsrepo.store.objects import ObjectStore, digest_from_path, object_path
from cfsrepo.store.temporary import make_directory
from cfsrepo.system import linux
from cfsrepo.system.closing import Closing


class Doubts(Protocol):
    """Says what is to count as absent, though it may be there."""

    def object(self, digest: bytes) -> bool:
        """Whether the object is."""

    def stream(self, content_id: str) -> bool:
        """Whether the link of the stream is."""


class Repository(Closing):
    """An open repository; a context manager. Make one with `init` or `open`."""

    def __init__(self, path: str, fd: int, meta: RepositoryMeta, policy: VerityPolicy) -> None:
        self.path = path
        self.fd = fd
        """The open directory; holds the lock."""
        self.meta = meta
        self.policy = policy
        self._doubts: Doubts | None = None
        self.writable = not meta.read_only_reasons and os.access(
            ".", os.W_OK, dir_fd=fd, effective_ids=True
        )
        self.objects = ObjectStore(
            os.path.join(path, "objects"), meta.algorithm, policy, writable=self.writable
        )
        if self.writable:
            trees = MerkleStore(os.path.join(path, merkle.DIRECTORY), meta.algorithm)
            self.objects.keep_tree = trees.store

    @property
    def algorithm(self) -> Algorithm:
        """The digest algorithm of all objects."""
        return self.meta.algorithm

    # --- opening ---------------------------------------------------------------------------------

    @classmethod
    def init(
        cls,
        path: str,
        *,
        algorithm: Algorithm = Algorithm.SHA256,
        verity: VerityPolicy = VerityPolicy.TRY,
    ) -> Self:
        """Make a repository in the directory `path` (made if missing, 0700) and open it.

        An existing repository of the same algorithm and policy is opened, another one refused, as
        is a directory with other things in it. `VerityError` where `require` cannot be met.
        """
        path = os.path.abspath(path)
        metafiles.make_repository(path, RepositoryMeta(algorithm), verity)
        repository = cls.open(path)
        if (repository.algorithm, repository.policy) != (algorithm, verity):
            with repository:
                raise UsageError(
                    f"{path}: is a repository already, with {repository.algorithm} and "
                    f"fs-verity policy '{repository.policy}'"
                )
        return repository

    @classmethod
    def open(cls, path: str, *, check_policy: bool = True) -> Self:
        """Open the repository in the directory `path` and lock it shared.

        Without `check_policy` one is opened too that lost the fs-verity it requires, for those who
        look at it or give it back.
        """
        path = os.path.abspath(path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(
                f"{path}: no such repository", hint=f"make it: cfs --repo {path} init"
            ) from None
        try:
            locks.lock_for_use(fd)
            meta, protected = metafiles.read_meta(path, fd)
            policy = metafiles.read_policy(path, fd)
            if protected:
                policy = VerityPolicy.REQUIRE
            elif policy is VerityPolicy.REQUIRE and check_policy:
                raise VerityError(
                    f"{path}: requires fs-verity, but {metajson.FILE_NAME} has none (a copy?)",
                    hint=f"'cfs --repo {path} verity enable' gives it back",
                )
            return cls(path, fd, meta, policy or VerityPolicy.TRY)
        except BaseException:
            os.close(fd)
            raise

    def doubting(self, doubts: Doubts) -> Self:
        """Another handle on the open repository, in which what `doubts` says is absent is absent.

        Storing it again then replaces it.
        """
        other = type(self)(self.path, os.dup(self.fd), self.meta, self.policy)
        other._doubts = doubts
        other.objects.doubted = doubts.object
        return other

    def close(self) -> None:
        """Release the lock and all descriptors."""
        self.objects.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def release_lock(self) -> None:
        """Give the shared lock back, staying open: for a mount, which is kept by its pin."""
        linux.unlock(self.fd)

    @contextlib.contextmanager
    def exclusive(self, waiting: Callable[[str], object]) -> Iterator[None]:
        """Hold the exclusive lock for a `with` block, then the shared one again.

        The shared lock is given up while waiting: what was seen before has to be looked at again.
        `waiting` is told when that takes time.
        """
        self.check_writable()
        with locks.exclusive(self.fd, waiting):
            yield

    def check_writable(self) -> None:
        """`RepositoryError` or `SystemFailure` where nothing may be written."""
        if reasons := self.meta.read_only_reasons:
            raise RepositoryError(
                f"{self.path}: has features that allow reading only here: {', '.join(reasons)}",
                hint="use a newer program",
            )
        if not self.writable:
            raise SystemFailure(f"{self.path}: no permission to write")

    def private_directory(self, name: str) -> str:
        """The path of our own directory `cfsfuse/NAME`, made if missing."""
        self.check_writable()
        make_directory(PRIVATE_DIRECTORY, self.fd)
        if name:
            make_directory(f"{PRIVATE_DIRECTORY}/{name}", self.fd)
        return os.path.join(self.path, PRIVATE_DIRECTORY, name)

    # --- making visible --------------------------------------------------------------------------

    def sync(self) -> None:
        """Wait until everything written so far is on disk (syncfs)."""
        linux.syncfs(self.fd)

    def publish(self, streams: Mapping[str, bytes], images: Collection[bytes] = ()) -> None:
        """Make stored objects visible, as streams (content id -> digest) and as images.

        One syncfs before it: everything stored earlier is on disk when the links appear. The links
        appear in the order given, images first.
        """
        self.check_writable()
        self.sync()
        for digest in images:
            refs.replace_link(self.fd, f"images/{digest.hex()}", _object_link(digest))
        for content_id, digest in streams.items():
            path = f"streams/{_check_content_id(content_id)}"
            refs.replace_link(self.fd, path, _object_link(digest))

    def put_stream(self, content_id: str, data: bytes) -> bytes:
        """Store the split stream `data` and make it visible as `content_id`; returns its digest."""
        digest = self.objects.put(data)
        self.publish({content_id: digest})
        return digest

    def add_image(self, data: Buffer, name: str | None = None) -> str:
        """Store the image file `data` and make it visible; returns its id, the digest in hex.

        A `name` becomes a reference, which keeps the image.
        """
        if name is not None:
            refs.check_path(name)
        digest = self.objects.put(data)
        self.publish({}, [digest])
        if name is not None:
            self.name_image(name, digest.hex())
        return digest.hex()

    def name_image(self, name: str, image_id: str) -> None:
        """Make `name` stand for the existing image file `image_id`, and nothing else."""
        refs.check_path(name)
        self._check_link(f"images/{image_id}", f"{image_id}: no such image")
        self._set_ref("images", name, image_id, refs.paths_of(name))

    def tag(self, name: str, content_id: str) -> None:
        """Make `name` stand for the existing manifest stream `content_id`, and nothing else."""
        encoded = refs.encode_tag(name)
        self._check_link(
            f"streams/{_check_content_id(content_id)}", f"{content_id}: no such stream"
        )
        self._set_ref("streams", f"{refs.OCI_DIRECTORY}/{encoded}", content_id, refs.paths_of(name))

    def untag(self, name: str) -> None:
        """Remove `name`, of whatever kind; what it kept goes with the next collection."""
        self.check_writable()
        removed = [refs.remove_link(self.fd, path) for path in refs.paths_of(name)]
        if not any(removed):
            raise NotFoundError(f"{name}: no such name", hint="'cfs images' lists what there is")
        for directory in removed:
            self._sync_removal(directory)

    def _sync_removal(self, directory: str | None) -> None:
        # A directory that another process removed meanwhile went with its parent's sync.
        if directory is not None:
            with contextlib.suppress(FileNotFoundError):
                self.sync_directory(directory)

    def set_stream_ref(self, name: str, content_id: str) -> None:
        """Keep the stream `content_id` by the reference `name` below `streams/refs`."""
        self._set_ref("streams", name, content_id)

    def _set_ref(
        self, category: str, path: str, target: str, same_name: Collection[str] = ()
    ) -> None:
        """Make the link `path` of the category, and remove those of `same_name` beside it."""
        self.check_writable()
        # What the reference needs is on disk; the links it goes through must be as well.
        self.sync_directory(category)
        path = f"{category}/refs/{path}"
        others = {other: refs.target_of(self.fd, other) for other in same_name if other != path}
        refs.replace_link(self.fd, path, "../" * (path.count("/") - 1) + target)
        self.sync_directory(os.path.dirname(path))
        for other, seen in others.items():
            # One that somebody set meanwhile is not taken: else both could end without the name.
            if seen is not None and refs.target_of(self.fd, other) == seen:
                self._sync_removal(refs.remove_link(self.fd, other))

    def sync_directory(self, path: str) -> None:
        """Wait until the entries of the directory `path` of the repository are on disk."""
        with linux.opened(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.fd) as fd:
            try:
                os.fsync(fd)
            except OSError as error:
                if error.errno != errno.EINVAL:  # a file system that has nothing to sync there
                    raise

    def _check_link(self, path: str, message: str) -> None:
        if self._link_digest(path) is None:
            raise NotFoundError(message)

    # --- streams and images ----------------------------------------------------------------------

    def _link_digest(self, path: str) -> bytes | None:
        """The digest of the object that the link images/X or streams/X points to."""
        try:
            target = os.readlink(path, dir_fd=self.fd)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENAMETOOLONG):
                raise
            return None
        return link_digest(target, self.algorithm)

    def stream_id(self, content_id: str) -> bytes | None:
        """The digest of the stream `content_id`'s object; None where there is no such stream."""
        digest = self._link_digest(f"streams/{_check_content_id(content_id)}")
        if digest is None or self._doubts is None:
            return digest
        doubted = self._doubts.stream(content_id) or self._doubts.object(digest)
        return None if doubted else digest

    def open_stream(self, content_id: str, content_type: int | None = None) -> SplitStream:
        """Read the stream `content_id`; its digest is checked, and its type if one is given."""
        digest = self.stream_id(content_id)
        if digest is None:
            raise NotFoundError(f"{content_id}: no such stream")
        return self.read_stream(digest, content_id, content_type)

    def read_stream(self, digest: bytes, name: str, content_type: int | None = None) -> SplitStream:
        """Read the stream that is the object `digest`; errors call it `name`."""
        stream = SplitStream.parse(self.objects.read(digest), name)
        if stream.algorithm is not self.algorithm:
            raise RepositoryError(f"{name}: stream with {stream.algorithm} digests")
        if content_type is not None and stream.content_type != content_type:
            raise RepositoryError(f"{name}: stream of another type ({stream.content_type:#x})")
        return stream

    def streams(self) -> dict[str, bytes]:
        """Every stream: content id -> digest of its object. Links to elsewhere are left out."""
        return self._links("streams")

    def images(self) -> dict[str, bytes]:
        """Every image: id -> digest. Links to elsewhere are left out."""
        found = self._links("images")
        return {name: digest for name, digest in found.items() if digest.hex() == name}

    def _links(self, category: str) -> dict[str, bytes]:
        found = {}
        try:
            entries = os.listdir(os.path.join(self.path, category))
        except FileNotFoundError:
            return {}
        for name in entries:
            digest = None if name == "refs" else self._link_digest(f"{category}/{name}")
            if digest is not None:
                found[name] = digest
        return found

    def has_image(self, image_id: str) -> bool:
        """Whether `images/` lists the image `image_id` (hex)."""
        digest = self._link_digest(f"images/{image_id}") if "/" not in image_id else None
        return digest is not None and digest.hex() == image_id

    def open_image(self, image_id: str, *, verify: bool = True) -> mmap.mmap:
        """The image file `image_id` (hex), mapped. Only what `images/` lists is opened.

        With `verify` its digest is measured, by the kernel where it protects the file, and a
        difference is a `RepositoryError`. As long as it is mapped a collection keeps the image,
        whether the repository is open or not (`cfsrepo.upkeep.inuse`).
        """
        if not self.has_image(image_id):
            raise NotFoundError(f"{image_id}: no such image")
        digest = bytes.fromhex(image_id)
        fd = self.objects.open(digest)
        try:
            linux.mark_in_use(fd)
            if verify:
                measured = kernelverity.measure(fd, self.algorithm)
                if measured is None and self.policy is VerityPolicy.REQUIRE:
                    raise VerityError(f"{self.objects.path}/{object_path(digest)}: no fs-verity")
                from cfsrepo.store import paralleldigest  # for large files only

                if (measured or paralleldigest.digest_fd(fd, self.algorithm)) != digest:
                    raise self.objects.damaged(digest)
            return mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        except ValueError:
            raise self.objects.damaged(digest) from None  # empty: cannot be mapped, is no image
        finally:
            os.close(fd)

    # --- names -----------------------------------------------------------------------------------

    def tags(self) -> dict[str, str]:
        """The tags of OCI images: name -> content id of the manifest's stream."""
        found = {}
        for name, target in refs.walk(self.fd, f"streams/refs/{refs.OCI_DIRECTORY}"):
            content_id = refs.last_component(target)
            if content_id.startswith(ocistreams.MANIFEST_PREFIX):
                found[refs.decode_tag(name)] = content_id
        return found

    def stream_refs(self) -> dict[str, str]:
        """All references to streams, tags among them: path below streams/refs -> content id."""
        found = refs.walk(self.fd, "streams/refs")
        return {name: refs.last_component(target) for name, target in found}

    def image_refs(self) -> dict[str, str]:
        """The references to images: name -> image id."""
        return {
            name: refs.last_component(target) for name, target in refs.walk(self.fd, "images/refs")
        }


def link_digest(target: str, algorithm: Algorithm) -> bytes | None:
    """The digest in the target `../objects/xx/rest` of a link; None for any other target."""
    return digest_from_path("/".join(target.rsplit("/", 2)[-2:]), algorithm)


def _object_link(digest: bytes) -> str:
    return f"../objects/{object_path(digest)}"


def _check_content_id(content_id: str) -> str:
    if "/" in content_id or "\0" in content_id or content_id in ("", ".", "..", "refs"):
        raise UsageError(f"{content_id}: not the name of a stream")
    return content_id
