"""What the user typed: a mode, a configuration, options and flags."""

import sys
from collections.abc import Iterable
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from emkd_jax.cli.modes import FLAGS, MODES, Mode
from emkd_jax.config.checks import check_given, check_names, named_by_part
from emkd_jax.config.options import flatten
from emkd_jax.errors import UserError

_DEFINE = {bool: flags.DEFINE_boolean, int: flags.DEFINE_integer, str: flags.DEFINE_string}


def split(arguments: list[str]) -> tuple[str, str, list[str]]:
    """Mode, configuration and the other arguments, each as `--name=value`.

    Raises:
      UserError: an argument is neither a mode nor an option.
    """
    mode, config, waiting = '', '', list(reversed(arguments))
    rest: list[str] = []
    while waiting:
        argument = waiting.pop()
        if argument in MODES and not (mode or rest or config):
            mode = argument
            continue
        if not argument.startswith('-') or argument == '-':
            if not (mode or rest or config):
                raise UserError(
                    f"'{argument}' is not a mode; the first word is one of {', '.join(MODES)}, or "
                    'an option such as --config=NAME.'
                )
            raise UserError(f"'{argument}' is not an option; options are written --name=value.")
        key, mark, value = argument.lstrip('-').partition('=')
        if not mark and waiting and not waiting[-1].startswith('--'):
            mark, value = '=', waiting.pop()  # written as `--name value`
        if key == 'mode':
            mode = value
        elif key == 'config':
            config = value
        else:
            rest.append(f'--{key}{mark}{value}')
    if mode and mode not in MODES:
        raise UserError(f'--mode={mode} is not known; use one of {", ".join(MODES)}.')
    return mode or 'train', config, rest


def parse(arguments: list[str], config: ConfigDict, mode: Mode) -> flags.FlagValues:
    """Changes the options of `config` that are given, in place, and returns the flags.

    Args:
      arguments: each as `--name=value`, as `split` returns them.
      config: the configuration without them.
      mode: the mode, which has flags of its own.

    Raises:
      UserError: a flag or an option is not known, has another type or does not belong to the mode.
    """
    names = [a.removeprefix('--').partition('=')[0] for a in arguments]
    options = [name.removeprefix('config.') for name in names if name.startswith('config.')]
    known = flatten(config.to_dict())
    check_names([o if o in known else o.removeprefix('no') for o in options], config)
    _check_numbers(arguments, known)
    values = flags.FlagValues()  # type: ignore[no-untyped-call]
    flags.DEFINE_string('workdir', '', 'Folder of the run.', flag_values=values)
    flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0.', flag_values=values)
    flags.DEFINE_integer('num_processes', None, 'Number of processes.', flag_values=values)
    flags.DEFINE_integer('process_id', None, 'Number of this process.', flag_values=values)
    flags.DEFINE_string('compilation_cache', '', 'Folder, or none.', flag_values=values)
    flags.DEFINE_boolean('verbose', False, 'Show messages of libraries.', flag_values=values)
    for name, (default, meaning) in FLAGS.items():
        define: Any = _DEFINE[type(default)]
        define(name, default, meaning, flag_values=values)
    _refuse_parts_of_options(name for name in names if name not in values)
    argv = ['emkd-jax', *arguments]
    try:
        config_flags.DEFINE_config_dict('config', config, flag_values=values, sys_argv=argv)
        values(argv)
    except (flags.Error, ValueError, TypeError) as error:
        message = ' '.join(str(error).split()).removeprefix('flag ')
        raise UserError(f'{message[:300].rstrip(".")}.') from error
    if mode.starts_from == 'config' and (unread := check_given(options, values.config)):
        print(unread, file=sys.stderr)
    for name in FLAGS:
        if values[name].present and name not in mode.flags:
            takers = ' and '.join(m for m, other in MODES.items() if name in other.flags)
            raise UserError(f'--{name} belongs to --mode={takers}; leave it out.')
    return values


def _refuse_parts_of_options(names: Iterable[str]) -> None:
    """Refuses options of the configuration by a part of their names, such as --epochs."""
    for name in names:
        if option := named_by_part(name):
            raise UserError(
                f'--{name[:100]} is not known; options of the configuration are written in full, '
                f'here --config.{option}=VALUE.'
            )


def _check_numbers(arguments: list[str], known: dict[str, Any]) -> None:
    for argument in arguments:
        name, mark, value = argument.removeprefix('--config.').partition('=')
        kind = type(known.get(name))
        if not mark or kind not in (int, float):
            continue
        try:
            kind(value)
        except ValueError as error:
            raise UserError(
                f'{argument[:100]}: it must be a {"whole " if kind is int else ""}number, such as '
                f'{known[name]}.'
            ) from error
