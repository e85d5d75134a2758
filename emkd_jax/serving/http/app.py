"""The HTTP interface: recommendations, similar items, a page for people, and health."""

import asyncio
import contextlib
import importlib.resources
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from jaxtyping import Int
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException as StarletteHTTPException

from emkd_jax import __version__
from emkd_jax.evaluation.baselines import LIST
from emkd_jax.runs.results import network_names, tested_scorers
from emkd_jax.serving.http import messages, scorer
from emkd_jax.serving.http.batching import Batcher, TooBusyError
from emkd_jax.serving.http.limits import JsonBodies
from emkd_jax.serving.http.measures import Measured, Measures
from emkd_jax.serving.http.served import Loaded, Served

_PAGE = {
    '/': ('index.html', 'text/html'),
    '/page.css': ('page.css', 'text/css'),
    '/page.js': ('page.js', 'text/javascript'),
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {'model': messages.Problem} for status in (404, 413, 422, 503)
}
_CUT_OFF = f'@{LIST}'  # of the metrics that are shown
Limit = Annotated[int, Query(ge=1, le=100)]
Text = Annotated[str, Query(max_length=200)]


class _Json(JSONResponse):
    """JSON of ASCII letters alone, since an id may have letters that UTF-8 cannot encode."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


def make_app(served: Served) -> FastAPI:
    """Makes the application that answers with a model in memory."""
    measures = Measures()
    batcher = Batcher(
        lambda queries: served.now.scorer(queries),
        lambda: served.now.scorer.most,
        measures.batches.observe,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        served.close()
        batcher.close()

    app = FastAPI(
        title='emkd-jax',
        version=__version__,
        description='Recommendations of a trained ensemble.',
        default_response_class=_Json,
        responses=_PROBLEMS,
        lifespan=lifespan,
    )
    app.add_middleware(JsonBodies)
    app.add_middleware(Measured, measures=measures)
    _explain_errors(app)

    async def best(query: scorer.Query) -> list[scorer.Best]:
        try:
            answer = batcher.submit(query)
        except TooBusyError:
            raise HTTPException(
                503, 'Too many requests are waiting; try again.', {'Retry-After': '1'}
            ) from None
        return await asyncio.wrap_future(answer)

    @app.post('/recommend', response_model_exclude_unset=True)
    async def recommend(asked: messages.Recommend) -> messages.Recommendations:
        """Recommends items to a user of the data, or after a history."""
        loaded = served.now
        networks = loaded.model.ensemble.num_networks
        if asked.network is not None and asked.network >= networks:
            raise HTTPException(422, f'network is {asked.network}; use 0 to {networks - 1}.')
        history, unknown = _history(loaded, asked)
        each = asked.network is not None
        found = await best(scorer.Query(history, asked.k, asked.exclude_seen, each))
        chosen = found[0 if asked.network is None else 1 + asked.network]
        return messages.Recommendations(
            items=[
                messages.ScoredItem(**loaded.catalogue.item(item), score=score)
                for item, score in zip(chosen.items.tolist(), chosen.scores.tolist(), strict=True)
            ],
            unknown=unknown,
            epoch=_epoch(loaded),
        )

    @app.post('/similar', response_model_exclude_unset=True)
    def similar(asked: messages.Similar) -> messages.SimilarItems:
        """Finds the items that are most like an item."""
        loaded = served.now
        _check_k(len(loaded.model.item_ids), asked)
        if loaded.model.ids.item(asked.item) is None:
            raise HTTPException(404, f'item {str(asked.item)[:80]!r} is not in the data.')
        table = loaded.model.similar([asked.item], asked.k)
        return messages.SimilarItems(
            items=[
                messages.ScoredItem(**row)
                for row in table.drop(columns=['to', 'rank']).to_dict('records')
            ]
        )

    @app.post('/compare', response_model_exclude_unset=True)
    async def compare(asked: messages.Asker) -> messages.Comparison:
        """Shows what the ensemble, each network and a baseline recommend, and why."""
        loaded = served.now
        history, unknown = _history(loaded, asked)
        found = await best(scorer.Query(history, asked.k, asked.exclude_seen, True))
        together = 'ensemble' if loaded.model.counts is None else 'ensemble and counts'
        members = loaded.model.config.ensemble.members
        names = [together, *network_names(members, len(found) - 1)]
        last = int(history[-1]) if len(history) else 0
        markov = loaded.chain.best(last, history if asked.exclude_seen else history[:0], asked.k)
        lists = [(b.items, b.scores.tolist()) for b in found] + [(markov, [None] * len(markov))]
        return messages.Comparison(
            history=[messages.Item(**loaded.catalogue.item(item)) for item in history.tolist()],
            unknown=unknown,
            lists=[
                messages.NamedList(name=name, items=_explained(loaded, history, items, scores))
                for name, (items, scores) in zip([*names, 'baseline: markov'], lists, strict=True)
            ],
            epoch=_epoch(loaded),
        )

    @app.get('/items', response_model_exclude_unset=True)
    def items(search: Text = '', limit: Limit = 20) -> messages.Items:
        """Finds items whose id or title has a text in it."""
        found = served.now.catalogue.items(search, limit)
        return messages.Items(items=[messages.Item(**item) for item in found])

    @app.get('/users')
    def users(search: Text = '', limit: Limit = 20) -> messages.Users:
        """Finds users whose id has a text in it."""
        return messages.Users(users=served.now.catalogue.users(search, limit))

    @app.get('/run')
    def run() -> messages.RunOverview:
        """Describes the run: its test, if it has finished, and its learning curves."""
        return _overview(served.now)

    @app.get('/healthz')
    def healthz() -> messages.Health:
        """Says whether the server answers, and with what."""
        loaded = served.now
        return messages.Health(
            status='stale' if served.problem else 'ok',
            problem=served.problem,
            run=loaded.run.folder.name,
            epoch=_epoch(loaded),
            seconds=time.time() - loaded.since,
        )

    @app.get('/metrics', response_class=Response)
    def metrics() -> Response:
        """Counts requests, their seconds and the sizes of batches, for Prometheus."""
        measures.epoch.set(_epoch(served.now))
        measures.stale.set(bool(served.problem))
        return Response(measures.text(), media_type=CONTENT_TYPE_LATEST)

    for path, (name, kind) in _PAGE.items():
        content = importlib.resources.files('emkd_jax.serving.http').joinpath('page', name)
        response = Response(content.read_bytes(), media_type=kind, headers=_PAGE_HEADERS)
        app.add_api_route(path, _constant(response), include_in_schema=False)
    return app


# The page loads nothing from elsewhere, and no other page may show it in a frame.
_PAGE_HEADERS = {
    'Cache-Control': 'no-cache',
    'Content-Security-Policy': "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    'X-Content-Type-Options': 'nosniff',
}


def _constant(response: Response) -> Any:
    async def page() -> Response:
        return response

    return page


def _explain_errors(app: FastAPI) -> None:
    """Answers every mistake of a request with {"error": a sentence}."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        found = error.errors()[0]
        if found['type'] == 'json_invalid':
            return _Json({'error': f'The body is not JSON (letter {found["loc"][-1]}).'}, 422)
        place = '.'.join(str(part) for part in found['loc'][1:] if isinstance(part, str | int))
        text = f'{place[:80]}: {found["msg"]}' if place else str(found['msg'])
        return _Json({'error': f'{text[:300].rstrip(".")}.'}, 422)

    @app.exception_handler(StarletteHTTPException)
    async def refused(_: Request, error: StarletteHTTPException) -> Response:
        return _Json({'error': str(error.detail)}, error.status_code, error.headers)


def _history(
    loaded: Loaded, asked: messages.Asker
) -> tuple[Int[np.ndarray, ' known'], list[int | str]]:
    """The items of the one who asks, and those that the model does not know."""
    _check_k(len(loaded.model.item_ids), asked)
    ids = loaded.model.ids
    if asked.history is None:
        row = ids.row(asked.user)
        if row is None:
            raise HTTPException(404, f'user {str(asked.user)[:80]!r} is not in the data.')
        return loaded.run.dataset.histories[row], []
    numbers = [(name, ids.item(name)) for name in asked.history]
    unknown = [name for name, number in numbers if number is None]
    return np.array([n for _, n in numbers if n is not None], np.int32), unknown


def _check_k(count: int, asked: messages.Asker | messages.Similar) -> None:
    """Refuses more items than the catalogue has, unless nobody asked for a number."""
    if asked.k > count and 'k' in asked.model_fields_set:
        raise HTTPException(422, f'k is {asked.k:,}; the catalogue has {count:,} items.')


def _explained(
    loaded: Loaded,
    history: Int[np.ndarray, ' length'],
    items: Int[np.ndarray, ' found'],
    scores: list[Any],
) -> list[messages.ExplainedItem]:
    nearest, closeness = None, None
    if len(history) and len(items):
        alike = loaded.model.similarities(items, history)
        nearest, closeness = history[alike.argmax(1)].tolist(), alike.max(1).tolist()
    found = []
    for place, (item, score) in enumerate(zip(items.tolist(), scores, strict=True)):
        because = None
        if nearest is not None and closeness is not None:
            reason = loaded.catalogue.item(nearest[place])
            because = messages.Reason(**reason, similarity=closeness[place])
        found.append(
            messages.ExplainedItem(**loaded.catalogue.item(item), score=score, because=because)
        )
    return found


def _overview(loaded: Loaded) -> messages.RunOverview:
    run, results = loaded.run, loaded.run.results
    rule = run.config.eval.rule
    curves: dict[str, list[tuple[int, float]]] = {}
    for event in run.history():
        if event['kind'] == 'validation':
            for name, values in event.items():
                if name == 'ensemble' or name.startswith('network_'):
                    points = curves.setdefault(name.replace('_', ' '), [])
                    points.append((event['epoch'], values[rule]['NDCG@10']))
    tests = {
        name: {metric: value for metric, value in row.items() if metric.endswith(_CUT_OFF)}
        for name, row in (tested_scorers(results) if results.get('floors') else {}).items()
    }
    return messages.RunOverview(
        name=run.config.name,
        data=run.dataset.counts() | {'name': run.dataset.name, 'stand_in': run.dataset.stand_in},
        epoch=_epoch(loaded),
        rule=rule,
        metrics=list(dict.fromkeys(metric for row in tests.values() for metric in row)),
        tests=tests,
        curves=curves,
    )


def _epoch(loaded: Loaded) -> int:
    return int(loaded.run.record['best']['epoch'])
