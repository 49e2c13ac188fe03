"""``python -m streamrt``: the command line without the console script."""

import sys

from streamrt.cli import main

sys.exit(main())
