"""Modules that are loaded when they are used, not when they are imported.

`dataclasses` imports `inspect`, with the parser and the disassembler of Python behind it, for the
text of classes that have none: a tenth of the time that a small command takes. LazyLoader of
importlib does not help: it loads the module at the next import of it.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType


class _Deferred(ModuleType):
    """Stands for a module until somebody asks for something of it."""

    def __getattr__(self, name: str) -> object:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        real = importlib.import_module(self.__name__)
        self.__dict__.update(real.__dict__)
        return getattr(real, name)


def defer(*names: str) -> None:
    """Have the next `import` of these load nothing yet, unless they are loaded already."""
    for name in names:
        sys.modules.setdefault(name, _Deferred(name))
