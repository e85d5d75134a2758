"""Fetches the authors' files from their repository."""

import http.client
import pathlib
import urllib.request

from absl import logging

from emkd_jax.data.files import Release, verify

_REPOSITORY = (
    'https://raw.githubusercontent.com/hw-du/EMKD/984d46cffe8298dc9f55e808ee949f371229ecfe'
)
_TIMEOUT = 30  # seconds without an answer


class Unreachable(Exception):
    """The repository could not be reached; the message is the reason."""


def download(release: Release, folder: pathlib.Path) -> None:
    """Puts the release's files, checked, into `folder`, in the layout of the repository."""
    for file in release:
        url = f'{_REPOSITORY}/{file.path}'
        logging.info('Downloading %s', url)
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
                path.write_bytes(response.read())
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(str(getattr(error, 'reason', error))) from error
    verify(release, folder)
