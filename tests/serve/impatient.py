"""``streamrt``, whose pool ends an idle thread after 0.2 s instead of 10 s, so that a test can count threads soon."""

import sys

from streamrt.cli import main
from streamrt.pool.workers import Workers

Workers.__init__.__defaults__ = (0.2,)
sys.exit(main())
