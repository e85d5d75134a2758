"""Refuses requests that are too large before anything reads them."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

MOST_BYTES = 1 << 20  # of a body

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class LimitBody:
    """An ASGI application around another one, whose requests have at most `MOST_BYTES`."""

    def __init__(self, app: App):
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Reads the whole body, and passes it on or answers 413."""
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return
        body, more = b'', True
        while more:
            message = await receive()
            if message['type'] != 'http.request':  # the client has gone
                return
            body += message.get('body', b'')
            more = message.get('more_body', False)
            if len(body) > MOST_BYTES:
                await _refuse(send)
                return
        bodies = [{'type': 'http.request', 'body': body, 'more_body': False}]

        async def again() -> Message:
            return bodies.pop() if bodies else await receive()

        await self._app(scope, again, send)


async def _refuse(send: Send) -> None:
    content = json.dumps({'error': f'The body has more than {MOST_BYTES:,} bytes.'}).encode()
    headers = [
        (b'content-type', b'application/json'),
        (b'content-length', str(len(content)).encode()),
        (b'connection', b'close'),
    ]
    await send({'type': 'http.response.start', 'status': 413, 'headers': headers})
    await send({'type': 'http.response.body', 'body': content})
