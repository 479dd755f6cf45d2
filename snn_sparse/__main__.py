"""Run the command line as ``python -m snn_sparse``."""

import sys

from snn_sparse.cli import main

sys.exit(main())
