"""Amazon's reviews of 2014: `reviews_*_5.json.gz`, `ratings_*.csv` and `meta_*.json.gz`.

Attributes follow S3-Rec's rule: the brand, and all categories below the top one.
"""

import re
from collections.abc import Iterator, Sequence

import duckdb
import ml_collections

from emkd_jax.data.event_log import columns, text_tables
from emkd_jax.data.event_log.items import Item, literal
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.source import Source

_RATINGS = text_tables.TextTable(('user', 'item', 'rating', 'timestamp'), header_lines=0)
# A line is one field of a table whose delimiter cannot stand in JSON.
_LINES = text_tables.TextTable(('review',), '\x01', quote='', header_lines=0)


def recognises(source: Source, lines: Sequence[str]) -> bool:
    """A review a line, or `user,item,rating,timestamp` without a header."""
    return _are_reviews(lines) or all(
        re.fullmatch(r'[^,"]+,[^,"]+,\d(\.\d+)?,\d{6,}', line) for line in lines
    )


def recognises_items(source: Source, lines: Sequence[str]) -> bool:
    """A dictionary with an 'asin' a line, as Python or JSON writes it."""
    return bool(re.match(r"\{.*['\"]asin['\"]:", lines[0]))


def read_events(
    database: duckdb.DuckDBPyConnection,
    source: Source,
    options: ml_collections.ConfigDict,
    report: Report,
) -> None:
    """Fills the table `read`."""
    if not _are_reviews(source.first_lines()):
        text_tables.read_events(database, source, _RATINGS, options, report)
        return
    text_tables.store_rows(
        database,
        source,
        _LINES,
        report,
        relation="""(
            SELECT CASE WHEN json_valid(c0) THEN c0::JSON END AS review
            FROM {} WHERE c0 IS NOT NULL
        )""",
        user="review->>'reviewerID'",
        item="review->>'asin'",
        time=columns.TimeKind('BIGINT').microseconds(
            "TRY_CAST(review->>'unixReviewTime' AS BIGINT)"
        ),
        rating="TRY_CAST(review->>'overall' AS DOUBLE)",
    )


def read_items(
    source: Source, options: ml_collections.ConfigDict, report: Report
) -> Iterator[Item]:
    """The products of a metadata file."""
    with source.lines() as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            product = literal(line)
            if type(product) is not dict or type(product.get('asin')) is not str:
                report.bad_lines(source.path, f'line {number}', "it is no product with an 'asin'")
                continue
            yield Item(
                f'line {number}',
                product['asin'],
                _attributes(product),
                str(product.get('title') or ''),
            )


def _are_reviews(lines):
    return all(name in lines[0] for name in ('"reviewerID"', '"asin"'))


def _attributes(product):
    brand, categories = product.get('brand'), product.get('categories')
    found = [brand] if type(brand) is str and brand else []
    for path in categories if type(categories) is list else ():
        found += [str(name) for name in path[1:]] if type(path) is list else []
    return found
