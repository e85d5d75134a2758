"""Every option once: its default, meaning, unit and allowed values.

The files in `configs/` set only what differs from these defaults, which are EMKD's published
hyper-parameters wherever all its data sets share them.
"""

import difflib
import importlib.util
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import ml_collections

from emkd_jax.errors import UserError

_LARGEST = 2**31 - 1  # steps, rows and seeds are 32-bit integers on the devices


class Option(NamedTuple):
    """One option.

    Attributes:
      default: value where nothing else is said; its type is the option's type.
      meaning: what it does, with its unit.
      least: smallest allowed value.
      above: the value must be larger than this.
      below: the value must be smaller than this.
      choices: the allowed values, if only some are.
      changes_results: whether runs that differ in this option alone may have different results.
        Options that do not (file locations, which are fingerprinted by content; post-training
        options; speed) may differ when a run is resumed or used.
    """

    default: Any
    meaning: str
    least: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] = ()
    changes_results: bool = True


OPTIONS: dict[str, Option] = {
    'name': Option('', 'Name of the run; the default workdir is runs/<name>.'),
    'seed': Option(0, 'Seed of everything random: weights, order, masks and dropout.', least=0),
    'data.name': Option(
        '', 'Data set: toys, beauty, ml_1m, movielens, quickstart, or custom for an event log.'
    ),
    'data.source': Option(
        '',
        'Folder with the files of the authors, or the event log. Empty: data that was prepared '
        'before, or a download.',
        changes_results=False,
    ),
    'data.stand_in': Option(
        False, 'Train on a made-up stand-in of about the same size instead of the real data.'
    ),
    'data.window_step': Option(
        1, 'Items between the starts of the training windows cut from a long history.', least=1
    ),
    'model.encoder': Option(
        'bert4rec',
        'Encoder of every network: bert4rec, sasrec, sasrec_plus, bsarec, hstu, gru4rec, caser, or '
        'package.module:Class for one of your own.',
    ),
    'model.max_len': Option(20, 'Length of the input window in items (L).', least=1),
    'model.hidden_dim': Option(256, 'Width of the hidden states (d).', least=1),
    'model.num_blocks': Option(2, 'Blocks of an encoder, or GRU layers; caser has none.', least=1),
    'model.num_heads': Option(2, 'Attention heads, where the encoder has some.', least=1),
    'model.dropout': Option(0.3, 'Probability that an activation is dropped.', least=0, below=1),
    'model.tied': Option(
        False,
        'Share the weights of the item head with the item embeddings, which then start small.',
    ),
    'model.attribute_inputs': Option(
        False,
        'Add the embeddings of the attributes of an item to its own embedding, in the input and in '
        'a tied head.',
    ),
    'model.item_bias': Option(True, 'Give the item head a bias.'),
    'model.dtype': Option(
        'auto',
        'Type of the activations; auto is float32 on CPUs and bfloat16 on accelerators.',
        choices=('auto', 'float32', 'bfloat16'),
    ),
    'ensemble.num_networks': Option(3, 'Networks in the ensemble (N).', least=1),
    'ensemble.members': Option(
        '',
        'Encoders of the networks, with commas between them, for networks of different kinds; '
        'empty: num_networks of model.encoder.',
    ),
    'ensemble.counts': Option(
        False,
        "Add transition counts (PCTM) to the networks' scores, with a weight that is found on "
        'validation after the training.',
    ),
    'ensemble.shared_init': Option(
        False, 'Start all encoders from the same weights, as the released code does.'
    ),
    'objective.task': Option(
        'auto',
        'What is predicted: cloze (masked items), next_item (at every position of packed rows), or '
        'auto, the natural task of the encoder: next_item for sasrec_plus, sasrec, bsarec, hstu '
        'and gru4rec.',
        choices=('auto', 'cloze', 'next_item'),
    ),
    'objective.num_views': Option(8, 'Masked views of every sequence (M).', least=1),
    'objective.mask_prob': Option(
        0.15, 'Probability that an item of a view is masked.', above=0, below=1
    ),
    'objective.temperature': Option(
        0.3, 'Temperature of contrast and distillation (tau).', above=0
    ),
    'objective.kd_weight': Option(0.001, 'Weight of knowledge distillation (mu).', least=0),
    'objective.contrast_weight': Option(0.01, 'Weight of ICL and CCL together (lambda).', least=0),
    'objective.icl_weight': Option(1.0, 'Weight of ICL within the contrast.', least=0),
    'objective.ccl_weight': Option(1.0, 'Weight of CCL within the contrast.', least=0),
    'objective.attribute_weight': Option(1.0, 'Weight of attribute prediction.', least=0),
    'objective.self_contrast': Option(
        'zero',
        "How the similarity of a sequence to itself enters the contrast's denominator: zero "
        'counts it as exp(0), as released; excluded leaves it out.',
        choices=('zero', 'excluded'),
    ),
    'optimizer.learning_rate': Option(1e-3, 'Learning rate of Adam, constant.', least=0),
    'optimizer.average_decay': Option(
        0.0,
        'Decay, from step to step, of a running average of the parameters, which is then what is '
        'validated and kept; 0 keeps the parameters themselves.',
        least=0,
        below=1,
    ),
    'train.batch_size': Option(
        256,
        'Sequences per step, over all devices together. With next_item, packed rows; 0 takes as '
        'many as give a thousandth of the targets, and at least 256 targets.',
        least=0,
    ),
    'train.row_width': Option(64, 'Items in a packed row, with objective.task=next_item.', least=1),
    'train.num_epochs': Option(250, 'Passes over the training data.', least=1),
    'train.patience': Option(
        0,
        'Stop when this many epochs have passed since the best validation; 0 trains to the end. It '
        'should be a multiple of eval.every_epochs.',
        least=0,
    ),
    'train.num_steps': Option(0, 'Optimizer steps; 0 lets num_epochs decide.', least=0),
    'train.num_seeds': Option(
        1, 'Runs that train together, with the seeds seed, seed + 1, and so on.', least=1
    ),
    'train.max_together': Option(
        16, 'Largest number of runs that train at the same time; lower it to save memory.', least=1
    ),
    'train.steps_per_dispatch': Option(
        0,
        'Steps sent to the devices at a time; 0 means 16 on accelerators and 4 on CPUs.',
        least=0,
        changes_results=False,
    ),
    'sweep.learning_rate': Option((), 'Learning rates to try, for example (3e-4,1e-3).'),
    'sweep.temperature': Option((), 'Temperatures to try.'),
    'sweep.kd_weight': Option((), 'Weights of distillation to try.'),
    'sweep.contrast_weight': Option((), 'Weights of the contrast to try.'),
    'sweep.dropout': Option((), 'Dropout probabilities to try.'),
    'distill.teacher': Option(
        '', 'Workdir of the ensemble that teaches this network; empty: no teacher.'
    ),
    'distill.temperature': Option(
        1.0, 'Temperature of the softmax of teacher and student.', above=0
    ),
    'distill.weight': Option(1.0, "Weight of the teacher's part of the loss.", least=0),
    'checkpoint.every_steps': Option(
        0, 'Save after this many steps; 0 switches it off.', least=0, changes_results=False
    ),
    'checkpoint.every_minutes': Option(
        10.0, 'Save after this many minutes; 0 switches it off.', least=0, changes_results=False
    ),
    'eval.rule': Option(
        'window',
        'Items that are left out of the ranking: those in the input window (as released), those '
        'in the whole history, or none.',
        choices=('window', 'history', 'none'),
    ),
    'eval.ks': Option(
        (1, 5, 10, 20),
        'Cut-offs of HR, NDCG and MRR; 10 must be among them, since validation '
        'NDCG@10 selects the checkpoint.',
    ),
    'eval.search_counts': Option(
        False,
        'Search the settings of the transition counts on validation, instead of using those '
        'published for the data set, or else the best published ones.',
    ),
    'eval.first_epoch': Option(5, 'Epoch after which validation starts.', least=1),
    'eval.every_epochs': Option(5, 'Epochs between validations.', least=1),
    'eval.batch_size': Option(
        256, 'Users ranked at a time on each device.', least=1, changes_results=False
    ),
    'recommend.k': Option(10, 'Items recommended to each user.', least=1, changes_results=False),
    'recommend.network': Option(
        -1,
        'Number of the one network that recommends; -1 is the ensemble.',
        least=-1,
        changes_results=False,
    ),
    'recommend.exclude_seen': Option(
        True, "Leave out the items of the user's history.", changes_results=False
    ),
    'recommend.exclude': Option(
        '', 'File of item ids, one a line, that are never recommended.', changes_results=False
    ),
    'recommend.only': Option(
        '', 'File of item ids, one a line; nothing else is recommended.', changes_results=False
    ),
    'recommend.titles': Option(
        False, 'Show the titles of the items, where the data has some.', changes_results=False
    ),
    'export.weights': Option(
        'safetensors',
        'Format in which the weights are exported beside the model; empty: not at all.',
        choices=('', 'safetensors', 'npz', 'pth'),
        changes_results=False,
    ),
}

# These exist only for `data.name=custom`.
EVENT_LOG_OPTIONS: dict[str, Option] = {
    'data.attributes': Option(
        '',
        "File of the items' attributes and titles. Empty: the one that lies beside the events.",
        changes_results=False,
    ),
    'data.format': Option(
        'auto',
        'Format of the events.',
        choices=('auto', 'table', 's3rec', 'recbole', 'amazon', 'movielens'),
    ),
    'data.columns': Option(
        '',
        'Names of the columns of a file without a line of names, separated by commas: user, item, '
        'time, rating, and _ for a column that is not needed.',
    ),
    'data.quote': Option(
        'auto',
        'The mark around values with delimiters in them: a character or none; auto: a double '
        'quotation mark, and none in files with tabs.',
    ),
    'data.user_column': Option('', 'Column of the users. Empty: a column with a usual name.'),
    'data.item_column': Option('', 'Column of the items. Empty: a column with a usual name.'),
    'data.time_column': Option(
        '',
        'Column of the times: numbers since 1970 or dates. Empty: a column with a usual name or '
        'with times alone in it; none: the events are in order.',
    ),
    'data.time_format': Option(
        '', 'How the dates are written, such as %d/%m/%Y %H:%M. Empty: told by the values.'
    ),
    'data.sequence_column': Option(
        '', 'Column that holds the history of a user in each row: a list, or ids between blanks.'
    ),
    'data.keep': Option(
        '', 'Events to take, such as event_type=buy or event_type=cart,buy. Empty: all.'
    ),
    'data.rating_column': Option('', 'Column of the ratings. Empty: a column with a usual name.'),
    'data.title_column': Option('', 'Column of the item table with the titles.'),
    'data.attribute_columns': Option(
        '', 'Columns of the item table with the attributes, separated by commas.'
    ),
    'data.attribute_delimiter': Option('|', 'Mark between the attributes in one cell.'),
    'data.min_rating': Option(
        0.0, 'Leave out events that are rated lower, or not rated; 0 keeps all.'
    ),
    'data.k_core': Option(
        5, 'Events that every user and every item must have; 0 or 1 keeps all.', least=0
    ),
    'data.min_length': Option(3, 'Events that every user must have.', least=1),
    'data.max_bad_lines': Option(
        0, 'Lines that may be left out because they cannot be read.', least=0
    ),
    'data.max_items': Option(
        1_000_000, 'Largest catalogue; every item costs memory in every network.', least=1
    ),
    'data.split': Option(
        'leave_one_out',
        "Held-out events: each user's last two, or those after the times in data.cuts.",
        choices=('leave_one_out', 'time'),
    ),
    'data.cuts': Option(
        '80%,90%',
        'Where validation and test begin with data.split=time: shares of the events, or ISO dates.',
    ),
}


def base_config(event_log: bool = False) -> ml_collections.ConfigDict:
    """All options with their defaults.

    Args:
      event_log: whether the options of event logs are among them.
    """
    options = OPTIONS | (EVENT_LOG_OPTIONS if event_log else {})
    tree: dict[str, Any] = {}
    for name, option in options.items():
        *groups, leaf = name.split('.')
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[leaf] = option.default
    return ml_collections.ConfigDict(tree)


# An ensemble of causal encoders that learn the next item at every position: the way to the best
# accuracy that is known here, in minutes on two CPU cores.
NEXT_ITEM_RECIPE: dict[str, Any] = {
    'model.encoder': 'sasrec_plus',
    'model.max_len': 51,
    'model.hidden_dim': 128,
    'model.num_blocks': 2,
    'model.num_heads': 1,
    'model.dropout': 0.5,
    'model.tied': True,
    'model.item_bias': False,
    'model.attribute_inputs': True,
    'ensemble.counts': True,
    'objective.kd_weight': 0.0,
    'objective.contrast_weight': 0.0,
    'objective.attribute_weight': 0.0,
    'optimizer.average_decay': 0.999,
    'train.batch_size': 4,
    'train.row_width': 64,
    'train.num_epochs': 14,
    'eval.rule': 'history',
    'eval.first_epoch': 6,
    'eval.every_epochs': 2,
}


def apply_variant(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
    """Applies one of the variants that all data sets share: '', `released` or `quick`.

    Raises:
      UserError: there is no such variant.
    """
    if variant == 'released':  # all quirks of the released code
        config.update_from_flattened_dict(
            {
                'model.dtype': 'float32',
                'ensemble.shared_init': True,
                'eval.first_epoch': 102,
                'eval.every_epochs': 1,
            }
        )
    elif variant == 'quick':  # a small model, for a machine without an accelerator
        config.update_from_flattened_dict(
            {
                'data.window_step': max(20, 4 * config.data.window_step),
                'model.hidden_dim': 64,
                'model.num_blocks': 1,
                'model.dropout': 0.1,
                'ensemble.num_networks': 2,
                'objective.num_views': 1,
                'objective.mask_prob': 0.3,
                'optimizer.learning_rate': 0.01,
                'train.batch_size': 128,
                'train.num_epochs': 7,
                'eval.first_epoch': 1,
                'eval.every_epochs': 1,
            }
        )
    elif variant == 'best':  # next-item training; each configuration adds its sizes
        config.update_from_flattened_dict(NEXT_ITEM_RECIPE)
    elif variant:
        raise UserError(
            f"configs/{config.data.name}.py has no variant '{variant}'; use :best, :released, "
            ':quick or none.'
        )
    config.name = f'{config.data.name}_{variant}' if variant else config.data.name
    return config


def get_config(name: str, **options: Any) -> ml_collections.ConfigDict:
    """A configuration by name, with some options changed.

    Args:
      name: 'toys', 'custom:quick' and so on: a file of `configs/` and its variant; or the path of
        a file of your own with a function `get_config(variant)`.
      **options: values by dotted name, as in `get_config('toys', **{'train.batch_size': 64})`.

    Raises:
      UserError: there is no such configuration or option, or a value is not allowed.
    """
    path, _, variant = name.rpartition(':') if ':' in name else (name, '', '')
    file = _config_file(path)
    spec = importlib.util.spec_from_file_location(f'emkd_jax_config_{file.stem}', file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(variant) if variant else module.get_config()
    except UserError:
        raise
    except Exception as error:  # whatever the user's file does wrong
        raise UserError(f'{file} cannot be used ({type(error).__name__}: {error}).') from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f'{file} cannot be used: its get_config returns no configuration.')
    set_options(config, options)
    return config


def config_names() -> list[str]:
    """The configurations in `configs/`, by the names that `get_config` takes."""
    return sorted(file.stem for file in _config_folder().glob('[a-z]*.py'))


def set_options(config: ml_collections.ConfigDict, options: Mapping[str, Any]) -> None:
    """Changes options by dotted name, in place.

    Raises:
      UserError: there is no such option, or the value has another type.
    """
    check_names(options, config)
    for name, value in options.items():
        try:
            config.update_from_flattened_dict({name: value})
        except (TypeError, ValueError) as error:
            current = flatten(config.to_dict())[name]
            raise UserError(
                f'{name} is {value!r}; it must be of the type {type(current).__name__}, such as '
                f'{current!r}.'
            ) from error


def check_names(names: Iterable[str], config: ml_collections.ConfigDict) -> None:
    """Raises UserError for a dotted name that is no option of `config`."""
    known = flatten(config.to_dict())
    for name in names:
        if name in known:
            continue
        # Several options may end alike; the first one is meant: model.dropout, not sweep.dropout.
        leaves = {option.rpartition('.')[2]: option for option in reversed(known)}
        near = difflib.get_close_matches(name, known, 1, 0.6 if '.' in name else 1.0) or [
            leaves[leaf] for leaf in difflib.get_close_matches(name.rpartition('.')[2], leaves, 1)
        ]
        hint = f' (did you mean {near[0]}?).' if near else '; docs/configuration.md lists all.'
        raise UserError(f'There is no option {name[:100]}{hint}')


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for the first option whose value is not allowed."""
    for name, value in flatten(config.to_dict()).items():
        option = OPTIONS.get(name) or EVENT_LOG_OPTIONS.get(name)
        if option is None:
            raise UserError(f'There is no option {name}; docs/configuration.md lists all.')
        if fault := _fault(option, value):
            raise UserError(f'{name} is {value!r}; it must be {fault}.')
    ks = config.eval.ks
    if 10 not in ks or not all(type(k) is int and k >= 1 for k in ks):
        raise UserError(
            f'eval.ks is {tuple(ks)}; it must hold cut-offs of at least 1, and 10 among them, '
            'since validation NDCG@10 selects the checkpoint.'
        )


def flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """{dotted name: value} of a nested dictionary."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f'{prefix}{key}.')
        else:
            flat[f'{prefix}{key}'] = value
    return flat


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The configuration as JSON holds it: nested dictionaries, and lists for tuples."""
    tree: dict[str, Any] = json.loads(config.to_json_best_effort())
    return tree


def from_json(tree: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The configuration that `to_json` wrote.

    Options that did not exist then have their defaults.

    Raises:
      UserError: an option is not known, or its value has another type.
    """
    flat = flatten(tree)
    config = base_config(event_log=flat.get('data.name') == 'custom')
    set_options(config, {name: tuple(v) if isinstance(v, list) else v for name, v in flat.items()})
    return config


def differences(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """'option: stored value -> requested value' for options that change results and differ.

    Args:
      stored: a configuration, as `to_json` gives it.
      requested: another one.
    """
    before, after = flatten(stored), flatten(requested)
    options = OPTIONS | EVENT_LOG_OPTIONS
    found = []
    follows = {  # from the data or from another option, so the stored value is the right one
        'train.batch_size': after.get('train.batch_size') == 0,
        'ensemble.num_networks': bool(after.get('ensemble.members')),
    }
    for name in sorted(before.keys() | after.keys()):
        option = options.get(name)
        if follows.get(name) or (option and not option.changes_results):
            continue
        default = option.default if option else 'not there'
        values = [_plain(values.get(name, default)) for values in (before, after)]
        if values[0] != values[1]:
            found.append(f'{name}: {values[0]} -> {values[1]}')
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _config_file(path: str) -> pathlib.Path:
    if path.endswith('.py'):
        file = pathlib.Path(path)
        if not file.is_file() and (named := _named_config(file.stem)):
            file = named  # configs/toys.py from anywhere, also where only the package is installed
        if file.is_file():
            return file
        raise UserError(f'--config={path}: there is no such file; look into configs/.')
    if named := _named_config(path):
        return named
    names = ', '.join(config_names())
    raise UserError(f"There is no configuration '{path[:100]}'; use one of {names}, or a file.")


def _named_config(name: str) -> pathlib.Path | None:
    file = _config_folder() / f'{name}.py'
    return file if file.is_file() and name != '__init__' else None


def _config_folder() -> pathlib.Path:
    """`configs/` of the repository, or its copy in an installed package."""
    package = pathlib.Path(__file__).resolve().parent
    installed = package / 'configs'
    return installed if installed.is_dir() else package.parent / 'configs'


def _fault(option: Option, value: Any) -> str:
    """What the value must be, if it is not allowed."""
    if option.choices:
        if value in option.choices:
            return ''
        return 'one of ' + ', '.join(str(choice) or "''" for choice in option.choices)
    if isinstance(option.default, tuple):
        numbers = isinstance(value, tuple | list) and all(
            isinstance(v, int | float) and not isinstance(v, bool) for v in value
        )
        return '' if numbers else 'a list of numbers, such as (1e-3,3e-3)'
    if option.least is not None and not value >= option.least:
        return f'at least {option.least}'
    if option.above is not None and not value > option.above:
        return f'more than {option.above}'
    if option.below is not None and not value < option.below:
        return f'less than {option.below}'
    if isinstance(value, int) and value > _LARGEST:
        return f'at most {_LARGEST}'
    return ''
