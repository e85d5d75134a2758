"""The command line from a checkout: `python launch.py --config=configs/toys.py`."""

import os
import sys

if __name__ == '__main__':
    try:
        from emkd_jax.cli.main import main
    except ModuleNotFoundError as error:
        if str(error.name).startswith('emkd_jax'):  # our own mistake
            raise
        from emkd_jax.errors import install_command  # which needs nothing but Python

        needed = os.path.relpath(os.path.join(os.path.dirname(__file__), 'requirements.txt'))
        command = install_command(f'-r {needed}')
        print(f'{error.name} is not installed; run: {command}', file=sys.stderr)
        sys.exit(2)
    sys.exit(main())
