"""`python tests/campaign`: see `--help`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the folder of reference.py and of this package

from campaign.run import main  # noqa: E402

sys.exit(main())
