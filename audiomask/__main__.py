"""``python -m audiomask``: the same as the command ``audiomask``."""

import sys

from audiomask.cli import main

sys.exit(main())
