"""Every option once: its default, meaning, unit and allowed values.

The files in `configs/` set only what differs from these defaults, which are EMKD's published
hyper-parameters wherever all its data sets share them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections


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
    'ensemble.shard_items': Option(
        False,
        'Split the rows of the item embeddings, the item heads and their moments in Adam over the '
        'devices, for catalogues that do not fit on each of them.',
        changes_results=False,
    ),
    'objective.task': Option(
        'auto',
        'What is predicted: cloze (masked items), next_item (at every position of packed rows), or '
        'auto: next_item for an encoder that keeps packed sequences apart (sasrec_plus, sasrec, '
        'bsarec, hstu, gru4rec, or your own with packs = True), else cloze.',
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
        'many as give a thousandth of the targets, but about 256 targets at least.',
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
        'Steps sent to the devices at a time; 0 means 16 on accelerators, and on CPUs as many as '
        'take half a second.',
        least=0,
        changes_results=False,
    ),
    'sweep.learning_rate': Option((), 'Learning rates to try, for example (3e-4,1e-3).'),
    'sweep.temperature': Option((), 'Temperatures to try.'),
    'sweep.kd_weight': Option((), 'Weights of distillation to try.'),
    'sweep.contrast_weight': Option((), 'Weights of the contrast to try.'),
    'sweep.dropout': Option((), 'Dropout probabilities to try.'),
    'distill.teacher': Option(
        '', 'Workdir of the ensemble that teaches these networks; empty: no teacher.'
    ),
    'distill.num_networks': Option(
        1,
        'Students that the mode distill trains; several are an ensemble, each with the encoder of '
        'model.encoder, or with that of its place in ensemble.members if it names as many.',
        least=1,
    ),
    'distill.temperature': Option(
        1.0, 'Temperature of the softmax of teacher and student.', above=0
    ),
    'distill.weight': Option(1.0, "Weight of the teacher's part of the loss.", least=0),
    'distill.dropout': Option(
        0.0,
        'Dropout of the students that the mode distill trains; none was best on Toys.',
        least=0,
        below=1,
    ),
    'checkpoint.every_steps': Option(
        0, 'Save after this many steps; 0 switches it off.', least=0, changes_results=False
    ),
    'checkpoint.every_minutes': Option(
        10.0, 'Save after this many minutes; 0 switches it off.', least=0, changes_results=False
    ),
    'log.sinks': Option(
        'tensorboard',
        'Where the figures are shown while a run trains, beside metrics.jsonl: tensorboard, wandb, '
        'mlflow and trackio, with commas between them; empty: nowhere.',
        changes_results=False,
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
    'eval.max_users': Option(
        0,
        'Users in the validation set and in the test set, taken at even distances; 0 is all. Large '
        'logs are tested in minutes with 10,000.',
        least=0,
    ),
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
    'export.index': Option(
        '',
        'Index of the item vectors for the search of inner products; empty: none.',
        choices=('', 'faiss'),
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
    'data.engine': Option(
        'duckdb',
        'What reads, filters and sorts the log: duckdb, on this machine; spark, for a table of its '
        'catalogue or a path that it reads; or bigquery, for a table project.dataset.table.',
        choices=('duckdb', 'spark', 'bigquery'),
    ),
    'data.table': Option(
        '', 'Table of the events, if data.source is a database file. Empty: its only table.'
    ),
    'data.format': Option(
        'auto',
        'Format of the events.',
        choices=('auto', 'table', 's3rec', 'recbole', 'amazon', 'movielens', 'database'),
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
    'data.item_key': Option(
        '',
        'Column of the item table with the items. Empty: the one that data.item_column names, or '
        'one with a usual name.',
    ),
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


def flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """{dotted name: value} of a nested dictionary."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f'{prefix}{key}.')
        else:
            flat[f'{prefix}{key}'] = value
    return flat
