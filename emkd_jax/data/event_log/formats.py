"""The formats that a user's files come in, and which of them a file is."""

import pathlib
import re
from types import ModuleType

import ml_collections

from emkd_jax.data import source
from emkd_jax.data.event_log import amazon, database_tables, movielens, recbole, s3rec, tables
from emkd_jax.data.event_log.found_log import ItemFile
from emkd_jax.data.source import Source
from emkd_jax.errors import UserError

# In the order they are tried. Each module recognises and reads events, and items likewise.
_FORMATS = {
    'amazon': amazon,
    'movielens': movielens,
    'recbole': recbole,
    'table': tables,
    's3rec': s3rec,
    'database': database_tables,
}
_ITEM_FORMATS = (amazon, movielens, s3rec, recbole, tables)
_ITEMS_BESIDE = {module: module.items_beside for module in (movielens, recbole, s3rec)}
_WITH_COLUMNS = (tables, recbole)  # of the items, which options may name
_FOLDERS = (movielens, recbole)  # distributed as a folder of files with known names


def events(options: ml_collections.ConfigDict) -> tuple[list[Source], ModuleType]:
    """The event files of `data.source` and the format `data.format`; 'auto': told by content.

    The source is a file, or a folder or a pattern of files of one format, which are parts of one
    log. Where a format has its files in a folder of their own, the source may be that folder.

    Raises:
      UserError: there is no such file or format, or none fits.
    """
    path, name = options.source, options.format
    if name not in ('auto', *_FORMATS):
        raise UserError(f"data.format is '{name}'; use auto, {', '.join(_FORMATS)}.")
    folder = pathlib.Path(path).expanduser()
    if folder.is_dir():
        inside = [file for module in _FOLDERS for file in module.events_in(folder)]
        if len(inside) == 1:
            path = inside[0]
    found = source.find_all(path, '--config.data.source')
    if name != 'auto':
        return found, _FORMATS[name]
    if options.columns:
        return found, tables
    modules = [_recognised(each) for each in found]
    if len(set(modules)) > 1:
        other = next(place for place, module in enumerate(modules) if module is not modules[0])
        raise UserError(
            f'{path} holds files of several kinds: {found[0].path} (data.format='
            f'{name_of(modules[0])}) and {found[other].path} ({name_of(modules[other])}); name '
            "those of the events alone, such as --config.data.source='FOLDER/*.csv'."
        )
    return found, modules[0]


def _recognised(found):
    lines = _first_lines(found, '--config.data.source')
    for module in _FORMATS.values():
        if module.recognises(found, lines):
            return module
    if len({len(line.split()) for line in lines}) == 1 and ' ' in lines[0].strip():
        raise UserError(
            f"{found.path} looks like a table whose columns are separated by blanks ('"
            f"{lines[0][:60]}'), which is not read; separate them by commas or tabs. If each line "
            'holds a user and then the items, give --config.data.format=s3rec.'
        )
    raise UserError(
        f"{found.path} is in no known format (it begins with '{lines[0][:60]}'); say which with "
        f'--config.data.format={"|".join(_FORMATS)}.'
    )


def items(
    options: ml_collections.ConfigDict, events: Source, module: ModuleType
) -> ItemFile | None:
    """The item file that `data.attributes` names, else the one that stands beside the events.

    Raises:
      UserError: there is no such file, or none of the formats fits.
    """
    if options.attributes or module not in _ITEMS_BESIDE:
        return item_file(options)
    path = _ITEMS_BESIDE[module](events)
    return _item_file(path, options) if path.exists() else None


def item_file(options: ml_collections.ConfigDict) -> ItemFile | None:
    """The item file that `data.attributes` names and its format, told by its content.

    Raises:
      UserError: there is no such file, or none of the formats fits.
    """
    return _item_file(options.attributes, options) if options.attributes else None


def _item_file(path: str | pathlib.Path, options: ml_collections.ConfigDict) -> ItemFile:
    found = source.find(path, '--config.data.attributes')
    lines = _first_lines(found, '--config.data.attributes')
    named = next((name for name in ('attribute_columns', 'title_column') if options[name]), '')
    for module in _ITEM_FORMATS:
        if not module.recognises_items(found, lines):
            continue
        if not named or module in _WITH_COLUMNS:
            return found, module
        if module is amazon:  # an object a line, whose values have names
            return found, tables
        raise UserError(
            f'data.{named}={options[named]} names columns of the item table, and {found.path} has '
            f'none with names (its format is {name_of(module)}); leave the option out.'
        )
    raise UserError(
        f"{found.path} is in no known form of item table (it begins with '{lines[0][:60]}'); give "
        'data.attributes a CSV, TSV or Parquet table, JSON lines, or an item file of Amazon, '
        'MovieLens, RecBole or S3-Rec.'
    )


def name_of(module: ModuleType) -> str:
    """The name of a format, as `data.format` has it."""
    return next(name for name, each in _FORMATS.items() if each is module)


def _first_lines(found, option):
    if found.parquet or found.database:
        return ['']
    lines = [line for line in found.first_lines() if line.strip()]
    if not lines:
        raise UserError(f'{found.path} begins with empty lines only; mend it.')
    if '\0' in lines[0]:
        raise UserError(
            f'{found.path} is neither a text nor Parquet nor a database; write the table as one of '
            f'these, and name that file with {option}.'
        )
    if re.match(r'\s*\[\s*\{', ''.join(lines)):
        raise UserError(
            f'{found.path} is one JSON list; write its objects as JSON lines, one on each line, as '
            "pandas does with to_json(file, orient='records', lines=True), and name that file with "
            f'{option}.'
        )
    return lines
