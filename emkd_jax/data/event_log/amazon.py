"""Amazon's reviews: the ratings without a header, and the metadata of products.

The reviews themselves are JSON lines or tables like any other. In the ratings of 2014 the user
stands before the item, in those of 2018 behind it; the ids tell which it is. Attributes follow
S3-Rec's rule: the brand (in 2023: the store), and all categories below the top one.
"""

import re
from collections.abc import Iterator, Sequence

import ml_collections

from emkd_jax.data.event_log import text_tables
from emkd_jax.data.event_log.items import Item, literal
from emkd_jax.data.event_log.open_log import OpenLog
from emkd_jax.data.event_log.report import Report
from emkd_jax.data.source import Source
from emkd_jax.errors import UserError

_PRODUCT = re.compile(r'[0-9B][0-9A-Z]{9}')
_REVIEWER = re.compile(r'A[0-9A-Z]{9,}')
_RATING = re.compile(r'[^,"]+,[^,"]+,\d(\.\d+)?,\d{6,}')


def recognises(source: Source, lines: Sequence[str]) -> bool:
    """Two ids, a rating and a number a line, without a header."""
    return all(_RATING.fullmatch(line) for line in lines)


def recognises_items(source: Source, lines: Sequence[str]) -> bool:
    """A dictionary with an 'asin' or a 'parent_asin' a line, as Python or JSON writes it."""
    return bool(re.match(r"\{.*['\"](parent_)?asin['\"]:", lines[0]))


def read_events(log: OpenLog) -> None:
    """Fills the table `read`."""
    rows = [line.split(',') for line in log.source.first_lines() if line.count(',') == 3]
    first, second = ([row[place] for row in rows] for place in range(2))
    if _are(_PRODUCT, second) and (_are(_REVIEWER, first) or not _are(_PRODUCT, first)):
        names = ('user', 'item', 'rating', 'timestamp')
    elif _are(_PRODUCT, first) and (_are(_REVIEWER, second) or not _are(_PRODUCT, second)):
        names = ('item', 'user', 'rating', 'timestamp')
    else:
        raise UserError(
            f'{log.source.path} has no line of column names, and its ids do not tell users from '
            f"items ('{','.join(rows[0]) if rows else ''}'); say which is which with "
            '--config.data.columns=user,item,rating,time or item,user,rating,time.'
        )
    table = text_tables.TextTable(names, header_lines=0)
    text_tables.read_table(log, table)


def read_items(
    source: Source, options: ml_collections.ConfigDict, report: Report
) -> Iterator[Item]:
    """The products of a metadata file."""
    report.say(
        'attributes of the items: brand or store, and categories below the top one, as Amazon has '
        'them (data.attribute_columns can name others)'
    )
    with source.lines() as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            product = literal(line)
            name = None
            if type(product) is dict:
                name = product.get('parent_asin') or product.get('asin')
            if type(name) is not str:
                report.bad_lines(source.path, f'line {number}', "it is no product with an 'asin'")
                continue
            yield Item(
                f'line {number}', name, _attributes(product), str(product.get('title') or '')
            )


def _are(pattern, values):
    return all(pattern.fullmatch(value) for value in values)


def _attributes(product):
    brand = product.get('brand') or product.get('store')
    found = [brand] if type(brand) is str else []
    paths = product.get('categories') or product.get('category')
    paths = paths if type(paths) is list else []
    if all(type(path) is str for path in paths):  # one path, as in 2018 and 2023
        paths = [paths]
    for path in paths:
        found += [str(name) for name in path[1:]] if type(path) is list else []
    return found
