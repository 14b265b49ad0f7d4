"""The part of the build that pyproject.toml cannot express: the native module, where it compiles.

It is optional: without a compiler `cfsrepo.formats.fsverity` hashes with hashlib.
`python setup.py build_ext --inplace` builds it for use from the source tree.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("repo/cfsrepo/formats/native")
# One build for all versions of Python; interpreters without a global lock have no stable ABI.
STABLE = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    ext_modules=[
        Extension(
            "cfsrepo.formats._blockhash",
            sources=sorted(map(str, SOURCES.glob("*.c"))),
            depends=sorted(map(str, SOURCES.glob("*.h"))),
            define_macros=[
                ("_FILE_OFFSET_BITS", "64"),
                *([("Py_LIMITED_API", "0x030B0000")] if STABLE else []),
            ],
            extra_compile_args=[
                "-O3",
                "-g0",
                "-std=gnu11",
                "-Wall",
                "-Wextra",
                "-fvisibility=hidden",
            ],
            py_limited_api=STABLE,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE else {},
)
