"""The command line from a checkout: `python launch.py --config=configs/toys.py`."""

import sys

from emkd_jax.cli.main import main

if __name__ == '__main__':
    sys.exit(main())
