"""Write man pages and completions below a directory: `python -m cfstools.manual DIRECTORY`."""

import sys

from cfstools.manual import build

if len(sys.argv) != 2:
    sys.exit("usage: python -m cfstools.manual DIRECTORY")
for paths in build.write(sys.argv[1]).values():
    print(*paths, sep="\n")
