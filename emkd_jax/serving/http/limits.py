"""Every body is read as JSON, and refused before anything reads it if it is too large."""

import json

from emkd_jax.serving.http.asgi import App, Message, Receive, Send

MOST_BYTES = 1 << 20  # of a body


class JsonBodies:
    """An ASGI application around another one, whose requests have at most `MOST_BYTES` of JSON.

    Many clients, such as curl, say that what they post is a form; here it never is.
    """

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
        headers = [pair for pair in scope['headers'] if pair[0] != b'content-type']
        scope['headers'] = [*headers, (b'content-type', b'application/json')]
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
