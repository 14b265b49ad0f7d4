"""Options that all commands have, and arguments and options that several have."""

from __future__ import annotations

from cfstools.options import Argument, Option

GLOBAL = (
    Option(
        ("--repo",),
        "the repository (default: $CFS_REPO, else cfsfuse/repository in $XDG_DATA_HOME)",
        value="DIR",
        completes="directory",
    ),
    Option(("-q", "--quiet"), "print results and errors only, and of results the shortest form"),
    Option(("-v", "--verbose"), "print more; may be repeated", repeated=True),
    Option(("--debug",), "print a traceback with an error"),
    Option(("-h", "--help"), "print this help"),
    Option(("--version",), "print the version"),
)

IMAGE = Argument(
    "image",
    "IMAGE",
    "name, tag, OCI digest or image id; of a digest the first hex digits do, if they are unique",
    completes="image",
)
OBJECTS = Option(
    ("--objects",),
    "IMAGE is the path of an image file, its objects are below DIR; no repository is used",
    value="DIR",
    completes="directory",
)
JSON = Option(("--json",), "print JSON")
XATTRS = Option(
    ("--xattrs",),
    "extended attributes to keep: 'oci' keeps security.capability only, which gives the same "
    "image id as cfsctl; 'all' keeps whatever the layers have",
    value="WHICH",
    choices=("oci", "all"),
    default="oci",
)
LIMITS = (
    Option(
        ("--max-size",),
        "refuse layers that unpack to more than this, as 500M or 20G; holes of sparse files count "
        "(default: 256G)",
        value="AMOUNT",
    ),
    Option(
        ("--max-metadata",),
        "refuse layers with more than this in names, link targets and extended attributes, which "
        "are held in memory (default: 64M)",
        value="AMOUNT",
    ),
    Option(
        ("--max-entries",),
        "refuse layers with more entries than this, all layers together (default: 4M)",
        value="AMOUNT",
    ),
)
REFERENCE_HELP = (
    "docker://HOST/NAME[:TAG|@DIGEST], oci:DIR[:REF], oci-archive:FILE[:REF] or "
    "docker-archive:FILE[:REF]; a bare name means a registry, as registries.conf(5) says"
)
REGISTRY = (
    Option(
        ("--tls-verify",),
        "'false' takes any certificate, and plain HTTP where the registry does not speak TLS",
        value="BOOL",
        choices=("true", "false"),
        default="true",
    ),
    Option(
        ("--authfile",),
        "credentials, in place of the usual files (containers-auth.json(5))",
        value="FILE",
        completes="file",
    ),
    Option(
        ("--cert-dir",),
        "certificates for the registry, in place of those in certs.d (containers-certs.d(5))",
        value="DIR",
        completes="directory",
    ),
)
PLATFORM = Option(
    ("--platform",),
    "of an image for several platforms, the one for this (linux/arm64); default: this machine's",
    value="OS/ARCH",
)
VERITY_POLICIES = ("require", "try", "off")
ALGORITHMS = ("fsverity-sha256-12", "fsverity-sha512-12")
