"""The parts of the build that pyproject.toml cannot express.

Man pages and completions are made from the table of commands (`cfstools.manual`).

The native module is optional: without a compiler `cfsrepo.formats.fsverity` hashes with hashlib.
`python setup.py build_ext --inplace` builds it for use from the source tree.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

# The standard library is all that these need of what is not built yet.
ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / "repo"), str(ROOT / "tools")]
from cfstools.manual import build  # noqa: E402 - found by the line above

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
    data_files=list(build.write("build/data").items()),
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE else {},
)
