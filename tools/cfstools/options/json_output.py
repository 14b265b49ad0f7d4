"""What each command prints with `--json`, as JSON Schema with a description of every field.

The man pages print it, and tests hold the commands' output against it. Fields are never removed
and never change their meaning; new ones may come.

Sizes are in bytes; ids and digests of files are hexadecimal, OCI digests `sha256:HEX`.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def _text(about: str, **more: object) -> Schema:
    return {"type": "string", "description": about, **more}


def _number(about: str) -> Schema:
    return {"type": "integer", "description": about}


def _truth(about: str) -> Schema:
    return {"type": "boolean", "description": about}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _array(items: Schema, about: str) -> Schema:
    return {"type": "array", "items": items, "description": about}


def _map(values: Schema, about: str) -> Schema:
    return {"type": "object", "additionalProperties": values, "description": about}


def _object(about: str, fields: dict[str, Schema], sometimes: dict[str, Schema] = {}) -> Schema:  # noqa: B006 - never changed
    """An object with all of `fields`, and where they apply those of `sometimes`."""
    return {
        "type": "object",
        "description": about,
        "properties": {**fields, **sometimes},
        "required": list(fields),
        "additionalProperties": False,
    }


_STRINGS = {"type": "string"}
_IMAGE_ID = _text("image id")
_MANIFEST = _or_null(_text("digest of the OCI manifest; null of an image file without one"))
_CONFIG = _or_null(_text("digest of the OCI config; null of an image file without one"))
_PLATFORM = _or_null(_text("operating system and architecture: linux/amd64"))
_CREATED = _or_null(_text("when the image was made, as its config has it (RFC 3339)"))
_LAYERS = _array(
    _object(
        "a layer",
        {
            "digest": _text("digest of the layer as it was pulled"),
            "media_type": _text("media type"),
            "size": _number("size as it was pulled"),
            "diff_id": _text("digest of the uncompressed layer"),
        },
    ),
    "layers, the lowest first",
)
_MTIME = _text("time of the last change: seconds, a point, nanoseconds as nine digits")
_MODE = _text("file type and permission bits, six octal digits: 100644")
_XATTRS = _map({"type": "string"}, "extended attributes; the values in hexadecimal")
_DEVICE = {
    "type": "array",
    "items": {"type": "integer"},
    "minItems": 2,
    "maxItems": 2,
    "description": "of a device: major and minor number",
}
_ENTRY = {
    "mode": _MODE,
    "uid": _number("owner"),
    "gid": _number("group"),
    "size": _number("size"),
    "mtime": _MTIME,
}
_SIDE = _or_null(_object("a file on one side", {**_ENTRY, "xattrs": _XATTRS}, {"device": _DEVICE}))
_PROBLEM = _object(
    "a problem",
    {
        "kind": _text("what is wrong"),
        "path": _text("the file of the repository"),
        "detail": _text("more, for people"),
        "digest": _or_null(_text("digest of the object")),
        "streams": _array(_STRINGS, "streams that need it"),
        "images": _array(
            _object(
                "an image that needs it",
                {
                    "name": _text("name, or id"),
                    "image_id": _IMAGE_ID,
                    "paths": _array(_STRINGS, "files of the image that have this content"),
                },
            ),
            "images that need it",
        ),
    },
)

_DIFFERENCES = _array(
    _object(
        "a difference",
        {
            "change": _text("what happened", enum=["added", "removed", "changed"]),
            "path": _text("path"),
            "what": _array(_STRINGS, "what is different: content, mode, owner, mtime, xattr"),
            "before": _SIDE,
            "after": _SIDE,
        },
    ),
    "the differences",
)

SCHEMAS: dict[str, Schema] = {
    "init": _object("the repository", {"repository": _text("path")}),
    "pull": _object(
        "the image",
        {
            "name": _text("what it is called"),
            "image_id": _IMAGE_ID,
            "manifest_digest": _text("digest of the OCI manifest"),
            "config_digest": _text("digest of the OCI config"),
            "layers": _number("number of layers"),
            "new_layers": _number("how many of them were not in the repository"),
        },
    ),
    "images": _array(
        _object(
            "a name of an image",
            {
                "name": _or_null(_text("null of an image without a name")),
                "image_id": _or_null(_text("image id; null where the OCI documents are damaged")),
                "manifest_digest": _MANIFEST,
                "config_digest": _CONFIG,
                "damaged": _truth("whether the image cannot be read; the fields below are missing"),
            },
            {
                "platform": _PLATFORM,
                "created": _CREATED,
                "image_size": _number("size of the image file"),
                "packed_size": _number("size of all layers as they were pulled"),
                "layers": _LAYERS,
            },
        ),
        "the names of images, and images without a name",
    ),
    "inspect": _object(
        "the image",
        {
            "names": _array(_STRINGS, "its names"),
            "image_id": _IMAGE_ID,
            "image_size": _number("size of the image file"),
            "packed_size": _number("size of all layers as they were pulled"),
            "manifest_digest": _MANIFEST,
            "config_digest": _CONFIG,
            "platform": _PLATFORM,
            "created": _CREATED,
            "manifest": {"type": ["object", "null"], "description": "the OCI manifest, parsed"},
            "config": {"type": ["object", "null"], "description": "the OCI config, parsed"},
            "layers": _LAYERS,
        },
    ),
    "ls": _array(
        _object(
            "a file",
            {
                "name": _text("name; with -R, and of a file asked for itself, the path"),
                **_ENTRY,
                "nlink": _number("number of hard links"),
                "inode": _number("number of the inode; hard links have the same"),
            },
            {
                "device": _DEVICE,
                "target": _text("of a symbolic link: where it leads"),
                "object": _text("of a file whose content is an object: the object's path"),
                "digest": _or_null(_text("the same: the digest that the image has for it")),
                "xattrs": _XATTRS,
            },
        ),
        "the files",
    ),
    "diff": _DIFFERENCES,
    "mounts": _array(
        _object(
            "a mount",
            {
                "mount_point": _text("where"),
                "image": _text("the image, as the mount table calls it"),
                "mode": _text("who serves it", enum=["fuse", "kernel"]),
                "state": _text("state", enum=["live", "dead", "not answering"]),
            },
            {
                "image_id": _or_null(_IMAGE_ID),
                "repository": _or_null(_text("path of the repository")),
                "pid": _number("the server's process"),
                "engine": _text("the server's kind"),
                "verify": _text("who checks digests"),
                "options": _array(_STRINGS, "options for the kernel"),
                "log": _or_null(_text("path of the server's log")),
                "requests": _number("requests that the server answered"),
                "by_request": _map(_number("number"), "the same by their kind"),
                "cache_hits": _number("reads of blocks that had been checked before"),
                "verified_bytes": _number("bytes that the server checked"),
            },
        ),
        "the mounts of images on this machine",
    ),
    "meta show": _array(
        _object(
            "a file",
            {
                "path": _text("path"),
                "record": _or_null(
                    _object(
                        "the record; null of a file without one",
                        {
                            **{name: _ENTRY[name] for name in ("mode", "uid", "gid", "mtime")},
                            "xattrs": _XATTRS,
                        },
                        {"device": _DEVICE},
                    )
                ),
            },
        ),
        "the files",
    ),
    "meta check": _array(
        _object("a problem", {"path": _text("path"), "problem": _text("what is wrong")}),
        "the problems",
    ),
    "commit": _object(
        "the image",
        {
            "name": _or_null(_text("what it is called")),
            "image_id": _IMAGE_ID,
            "files_without_record": _number("files that had no record"),
            "files_chmodded": _number("files whose mode on disk was changed; their records count"),
            "files_adopted": _number("files that are objects of the repository now"),
        },
    ),
    "status": _object(
        "what was changed in a directory",
        {
            "image_id": _IMAGE_ID,
            "differences": _DIFFERENCES,
            "files_without_record": _number("files that have no record"),
            "files_chmodded": _number("files whose mode on disk was changed; their records count"),
        },
    ),
    "du": _object(
        "use of disk",
        {
            "images": _array(
                _object(
                    "an image",
                    {
                        "names": _array(_STRINGS, "its names"),
                        "image_id": _IMAGE_ID,
                        "manifest_digest": _MANIFEST,
                        "files": _number("number of files"),
                        "apparent": _number("size of the content of all files"),
                        "disk": _number("what its objects take on disk"),
                        "unique": _number("of that, what no other image needs"),
                        "shared": _number("of that, what other images need too"),
                    },
                ),
                "the images",
            ),
            "repository": _object(
                "the repository",
                {
                    "objects": _number("number of objects"),
                    "disk": _number("what all objects take on disk"),
                    "unique": _number("of that, what one image needs"),
                    "shared": _number("of that, what several images need"),
                    "other": _number("of that, what something else keeps"),
                    "garbage": _number("of that, what nothing needs"),
                    "freed": _number("what a collection would free"),
                    "private": _number("what cfs keeps beside the objects"),
                },
            ),
        },
    ),
    "pin": _array(
        _object(
            "a pin",
            {
                "pin_id": _text("its name"),
                "image_id": _text("image id; of a damaged pin the beginning of one, or empty"),
                "kind": _text("what holds the image"),
                "reason": _text("why, as the user said; of a damaged pin what is wrong"),
                "mount_point": _or_null(_text("of a mount: where")),
                "pid": _or_null(_number("of a process: its id")),
            },
        ),
        "the pin that was made, or all pins",
    ),
    "gc": _object(
        "the collection",
        {
            "dry_run": _truth("whether nothing was removed"),
            "objects": _number("number of objects removed"),
            "size": _number("their size"),
            "disk": _number("what was freed on disk"),
            "streams": _number("number of streams removed"),
            "images": _number("number of images removed"),
            "leftovers": _number("number of temporary files removed"),
            "dead_pins": _number("number of pins removed whose owner is gone"),
            "damaged_pins": _array(
                _STRINGS, "pins that cannot be read; what they may keep is kept"
            ),
            "strays": _array(_STRINGS, "files that are no objects and were left alone"),
            "kept": _map(
                {"type": "array", "items": {"type": "string"}},
                "images that something other than a name keeps, by id: what keeps them",
            ),
        },
    ),
    "fsck": _object(
        "the check",
        {
            "clean": _truth("whether nothing is wrong"),
            "objects": _number("number of objects checked"),
            "size": _number("their size"),
            "streams": _number("number of streams checked"),
            "images": _number("number of images checked"),
            "names": _number("number of names checked"),
            "problems": _array(_PROBLEM, "what is wrong"),
        },
        {
            "repair": _object(
                "with --repair, where something was wrong",
                {
                    "restored": _array(_STRINGS, "files that are sound again"),
                    "quarantined": _array(_STRINGS, "files that were moved to quarantine"),
                    "left": _array(_PROBLEM, "problems that are left"),
                },
            )
        },
    ),
    "clone": _object(
        "what was copied",
        {
            "images": _number("number of images"),
            "objects": _number("number of objects"),
            "ways": _map(_number("number"), "objects by how they were copied"),
        },
    ),
    "verity": _object(
        "protection by the kernel",
        {
            "policy": _text("the repository's policy", enum=["require", "try", "off"]),
            "supported": _truth("whether the file system has fs-verity"),
            "meta_protected": _truth("whether meta.json is protected"),
            "protected": _number("number of objects that are protected"),
            "unprotected": _number("number of objects that are not"),
            "damaged": _array(_STRINGS, "objects whose digest is not their name"),
        },
    ),
    "info": _object(
        "the repository",
        {
            "repository": _text("path"),
            "file_system": _text("type of its file system"),
            "version": _number("version of its format"),
            "algorithm": _text("algorithm of digests"),
            "image_versions": _array({"type": "integer"}, "versions of images it is to have"),
            "features": _array(_STRINGS, "feature flags"),
            "verity_policy": _text("policy for fs-verity", enum=["require", "try", "off"]),
            "verity_in_force": _text("what the policy comes to here"),
            "writable": _truth("whether this user may write to it"),
            "images": _number("number of images"),
            "tags": _number("number of tags"),
            "streams": _number("number of streams"),
            "objects": _number("number of objects"),
            "pins": _number("number of pins"),
        },
    ),
    "import-dump": _object(
        "the image", {"name": _text("what it is called"), "image_id": _IMAGE_ID}
    ),
}


def fields(schema: Schema, prefix: str = "") -> list[tuple[str, str]]:
    """The fields of a value with types, and what they mean; nested ones as `layers[].size`."""
    if schema.get("type") == "array":
        return fields(schema["items"], f"{prefix}[]")
    found = []
    for name, field in schema.get("properties", {}).items():
        path = f"{prefix}.{name}" if prefix and prefix != "[]" else name
        found.append((f"{path} ({_type(field)})", field.get("description", "")))
        found += fields(field, path)
    return found


def _type(schema: Schema) -> str:
    kinds = schema.get("type", "")
    names = [kinds] if isinstance(kinds, str) else kinds
    if "array" in names and isinstance(schema["items"].get("type"), str):
        names = [
            f"array of {schema['items']['type']}s" if name == "array" else name for name in names
        ]
    return " or ".join(names)
