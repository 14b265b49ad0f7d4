"""`python -m cfstools` is `cfs`."""

import sys

from cfstools.cli import main

sys.exit(main())
