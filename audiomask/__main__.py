"""Run the command `audiomask` as `python -m audiomask`."""

import sys

from audiomask.cli import main

sys.exit(main())
