"""Writes what it was given to the working directory, as the original writes its experiments."""

import json
import pathlib


def setup_train(args):
    print('noise on standard output')
    pathlib.Path('seen.json').write_text(json.dumps(vars(args)))
    return 'experiments'
