"""What the server measures of itself, in the format of Prometheus."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from emkd_jax.serving.http.asgi import App, Message, Receive, Send

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_SIZES = (1, 2, 4, 8, 16, 32)


class Measures:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            'emkd_requests', 'Requests', ['path', 'status'], registry=self._registry
        )
        self.seconds = Histogram(
            'emkd_request_seconds',
            'Time to the answer',
            ['path'],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.batches = Histogram(
            'emkd_batch_size',
            'Queries that were computed together',
            buckets=_SIZES,
            registry=self._registry,
        )
        self.epoch = Gauge(
            'emkd_model_epoch', 'Epoch of the model that answers', registry=self._registry
        )
        self.stale = Gauge(
            'emkd_workdir_unreadable',
            '1 if the workdir cannot be read any more',
            registry=self._registry,
        )

    def text(self) -> bytes:
        """All figures."""
        return generate_latest(self._registry)


class Measured:
    """An ASGI application around another one, whose requests are counted."""

    def __init__(self, app: App, measures: Measures):
        self._app, self._measures = app, measures

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Passes everything on."""
        began, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get('status', status)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            if scope['type'] == 'http':
                # A label for every path that somebody makes up would fill the memory.
                path = getattr(scope.get('route'), 'path', 'other')
                self._measures.requests.labels(path, status).inc()
                self._measures.seconds.labels(path).observe(time.perf_counter() - began)
