"""Fetches the authors' files from their repository."""

import hashlib
import http.client
import pathlib
import urllib.request

from absl import logging

from emkd_jax.data.files import MOST_BYTES, Release

_REPOSITORY = (
    'https://raw.githubusercontent.com/hw-du/EMKD/984d46cffe8298dc9f55e808ee949f371229ecfe'
)
_TIMEOUT = 30  # seconds without an answer


class DownloadError(Exception):
    """The files are not to be had; the message is the reason."""


def download(release: Release, folder: pathlib.Path) -> None:
    """Puts the released files into `folder`, in the layout of the repository."""
    for file in release:
        url = f'{_REPOSITORY}/{file.path}'
        logging.info('Downloading %s', url)
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
                content = response.read(MOST_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise DownloadError(str(getattr(error, 'reason', error))) from error
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise DownloadError(f'the answer of {url} is not the released file')
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
