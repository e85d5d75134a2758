"""`--mode=serve`: a trained run answers over HTTP, and shows a page in the browser."""

import ipaddress
import socket

from emkd_jax.cli.console import say, warn
from emkd_jax.errors import UserError, import_extra
from emkd_jax.runs.trained import TrainedRun

_LOOK_EVERY = 5.0  # seconds between two looks at the workdir


def serve(run: TrainedRun, host: str = '127.0.0.1', port: int = 8000) -> None:
    """Serves the best checkpoint of a run until a signal ends it.

    While the run is still being trained, a better checkpoint takes the place of the old one.

    Args:
      run: a trained run.
      host: the address to listen on.
      port: its port; 0 for one that is free.

    Raises:
      UserError: the packages for it are missing, the address cannot be had, or the run has no
        validated checkpoint yet.
    """
    uvicorn, answering = (
        import_extra(name, '--mode=serve', '[serve]')
        for name in ('uvicorn', 'emkd_jax.serving.http.app')
    )
    from emkd_jax.serving.http.served import Served

    listening = _listen(host, port)
    say(f'Loading {run.folder} and compiling.')
    served = Served(run)
    served.follow(_LOOK_EVERY)
    app = answering.make_app(served)
    name, port = listening.getsockname()[:2]
    if not ipaddress.ip_address(name).is_loopback:
        warn(
            f'{name} can be reached from other machines, and the server has no authentication of '
            'its own; let a proxy do it.'
        )
    shown = f'[{name}]' if ':' in name else name
    say(
        f'Serving epoch {served.now.model.results["epoch"]} of {run.folder} at '
        f'http://{shown}:{port} (the interface: /docs). Ctrl-C ends it.'
    )
    options = uvicorn.Config(app, log_level='warning', access_log=False)
    uvicorn.Server(options).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise UserError(f'--port={port} is not a port; use 1 to 65535, or 0 for one that is free.')
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError as error:
        reason = getattr(error, 'strerror', None) or error
        raise UserError(
            f'{host}:{port} cannot be listened on ({reason}); name another --port, or --host.'
        ) from error
    return listening
