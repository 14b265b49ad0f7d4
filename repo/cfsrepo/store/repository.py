"""A repository: images, streams and the objects they are made of, shared with cfsctl.

    meta.json                what the repository is (`cfsrepo.formats.metajson`)
    objects/XX/REST          content by fs-verity digest (`cfsrepo.store.objects`)
    images/HEX               -> ../objects/XX/REST: an image file (EROFS); only these are mounted
    images/refs/NAME         -> ../HEX: a name, keeps the image
    streams/CONTENT_ID       -> ../objects/XX/REST: a split stream (`cfsrepo.formats.splitstream`)
    streams/refs/oci/TAG     -> ../../oci-manifest-sha256:HEX: a tag, keeps all the image needs
    cfsfuse/                 what only this program knows; others ignore it
    cfsfuse/verity           the policy: require, try or off
    cfsfuse/turnstile        empty; see "Locks"

CONTENT_ID is `oci-manifest-DIGEST`, `oci-config-DIGEST`, `oci-layer-DIFFID` or `oci-blob-DIGEST`.
A manifest's stream names its config's stream `config:DIGEST` and the layers' by diff id; a config's
stream names the layers' and the image file: `composefs.image.v1`, or `composefs.image` for
version 2.

Locks: flock on the directory, shared as long as the repository is open, exclusive while something
is removed. So what was seen stays there until `close`. A long-lived reader (a mount) gives the lock
back with `release_lock` and writes a pin instead. Who waits for the exclusive lock holds the one of
`cfsfuse/turnstile`, and who opens the repository then lets it go first, for a moment.

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
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final, Self

from cfsrepo.errors import NotFoundError, RepositoryError, SystemFailure, UsageError, VerityError
from cfsrepo.formats import metajson
from cfsrepo.formats.fsverity import Algorithm, Buffer, VerityPolicy
from cfsrepo.formats.metajson import RepositoryMeta
from cfsrepo.formats.splitstream import SplitStream
from cfsrepo.store import kernelverity, merkle, metafiles, ocistreams, paralleldigest, refs
from cfsrepo.store.merkle import MerkleStore
from cfsrepo.store.metafiles import PRIVATE_DIRECTORY
from cfsrepo.store.objects import ObjectStore, digest_from_path, object_path
from cfsrepo.store.temporary import make_directory
from cfsrepo.system import linux
from cfsrepo.system.closing import Closing

_TURNSTILE: Final = f"{PRIVATE_DIRECTORY}/turnstile"
_TURNSTILE_WAIT: Final = 1.0  # seconds
_TURNSTILE_POLL: Final = 0.005


class Repository(Closing):
    """An open repository; a context manager. Make one with `init` or `open`."""

    def __init__(self, path: str, fd: int, meta: RepositoryMeta, policy: VerityPolicy) -> None:
        self.path = path
        self.fd = fd
        """The open directory; holds the lock."""
        self.meta = meta
        self.policy = policy
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
        meta = RepositoryMeta(algorithm)
        made = metafiles.make_root(path)
        try:
            with linux.opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
                linux.lock_exclusive(fd)
                if not metafiles.exists(fd, metajson.FILE_NAME):
                    if not made and set(os.listdir(fd)) - metafiles.LEFTOVERS:
                        raise UsageError(f"{path}: exists and is neither empty nor a repository")
                    metafiles.write_policy(fd, verity)
                    metafiles.write_meta(path, fd, meta, verity)
                    made = False
        finally:
            if made:
                shutil.rmtree(path)
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
            _pass_turnstile(fd)
            linux.lock_shared(fd)
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
        if not linux.lock_exclusive(self.fd, wait=False):
            waiting("waiting for others to close the repository")
            # Nobody may hold the one lock while waiting for the other.
            linux.unlock(self.fd)
            self.private_directory("")
            flags = os.O_RDONLY | os.O_CREAT
            with linux.opened(_TURNSTILE, flags, dir_fd=self.fd, mode=0o644) as turnstile:
                linux.lock_exclusive(turnstile)
                linux.lock_exclusive(self.fd)
        try:
            yield
        finally:
            linux.lock_shared(self.fd)

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
        """Make `name` a reference to the image `image_id`, which exists."""
        refs.check_path(name)
        self._check_link(f"images/{image_id}", f"{image_id}: no such image")
        self._set_ref("images", name, image_id)

    def tag(self, name: str, content_id: str) -> None:
        """Make the tag `name` stand for the manifest stream `content_id`, which exists."""
        encoded = refs.encode_tag(name)
        self._check_link(
            f"streams/{_check_content_id(content_id)}", f"{content_id}: no such stream"
        )
        self._set_ref("streams", f"{refs.OCI_DIRECTORY}/{encoded}", content_id)

    def untag(self, name: str) -> None:
        """Remove the tag `name`; what it kept goes with the next collection."""
        self.check_writable()
        path = f"streams/refs/{refs.OCI_DIRECTORY}/{refs.encode_tag(name)}"
        self._remove_ref(path, f"{name}: no such tag")

    def unname_image(self, name: str) -> None:
        """Remove the reference `name` to an image."""
        self.check_writable()
        self._remove_ref(f"images/refs/{refs.check_path(name)}", f"{name}: no such name")

    def _set_ref(self, category: str, name: str, target: str) -> None:
        self.check_writable()
        # What the reference needs is on disk; the links it goes through must be as well.
        self.sync_directory(category)
        path = f"{category}/refs/{name}"
        refs.replace_link(self.fd, path, "../" * (name.count("/") + 1) + target)
        self.sync_directory(os.path.dirname(path))

    def _remove_ref(self, path: str, message: str) -> None:
        try:
            if not os.path.islink(f"{self.path}/{path}"):
                raise NotFoundError(message)
            os.unlink(path, dir_fd=self.fd)
        except (FileNotFoundError, IsADirectoryError):
            raise NotFoundError(message) from None
        self.sync_directory(os.path.dirname(path))

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
        return self._link_digest(f"streams/{_check_content_id(content_id)}")

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

    def open_image(self, image_id: str, *, verify: bool = True) -> mmap.mmap:
        """The image file `image_id` (hex), mapped. Only what `images/` lists is opened.

        With `verify` its digest is measured, by the kernel where it protects the file, and a
        difference is a `RepositoryError`.
        """
        digest = self._link_digest(f"images/{image_id}") if "/" not in image_id else None
        if digest is None or digest.hex() != image_id:
            raise NotFoundError(f"{image_id}: no such image")
        fd = self.objects.open(digest)
        try:
            if verify:
                measured = kernelverity.measure(fd, self.algorithm)
                if measured is None and self.policy is VerityPolicy.REQUIRE:
                    raise VerityError(f"{self.objects.path}/{object_path(digest)}: no fs-verity")
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


def _pass_turnstile(fd: int) -> None:
    """Let a collector go first that waits for the exclusive lock, for a moment.

    flock(2) knows no order: shared locks that overlap each other would keep it out for ever. The
    wait is short, since whoever opens may be the one that the collector waits for.
    """
    try:
        with linux.opened(_TURNSTILE, os.O_RDONLY, dir_fd=fd) as turnstile:
            deadline = time.monotonic() + _TURNSTILE_WAIT
            while not linux.lock_shared(turnstile, wait=False) and time.monotonic() < deadline:
                time.sleep(_TURNSTILE_POLL)
    except (FileNotFoundError, PermissionError):
        return


def link_digest(target: str, algorithm: Algorithm) -> bytes | None:
    """The digest in the target `../objects/xx/rest` of a link; None for any other target."""
    return digest_from_path("/".join(target.rsplit("/", 2)[-2:]), algorithm)


def _object_link(digest: bytes) -> str:
    return f"../objects/{object_path(digest)}"


def _check_content_id(content_id: str) -> str:
    if "/" in content_id or "\0" in content_id or content_id in ("", ".", "..", "refs"):
        raise UsageError(f"{content_id}: not the name of a stream")
    return content_id
