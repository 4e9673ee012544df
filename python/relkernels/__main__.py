"""``python -m relkernels`` is the command ``relkernels``."""

import sys

from .cli.main import main

sys.exit(main())
