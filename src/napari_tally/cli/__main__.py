"""``python -m napari_tally.cli``."""

import sys

from napari_tally.cli import main

sys.exit(main())
