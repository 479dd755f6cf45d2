"""Run the command line as ``python -m snn_sparse.cli``."""

import sys

from snn_sparse.cli.command import main

sys.exit(main())
