"""Trains RecBole's SASRec for `peers.py`; runs in an environment that has RecBole alone.

python benchmarks/peer_recbole.py DATA FOLDER --seconds=600
"""

import argparse
import itertools
import json
import pathlib
import time

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed

SLOTS, ROWS = 50, 512


def write_events(data, folder):
    """Writes all events as RecBole reads them; it holds out the last two of each user itself."""
    (folder / 'log').mkdir(parents=True, exist_ok=True)
    lines = ['user_id:token\titem_id:token\ttimestamp:float']
    offsets, values = data['all_offsets'], data['all_values']
    for user, (first, end) in enumerate(itertools.pairwise(offsets)):
        lines += [f'{user}\t{item}\t{time}' for time, item in enumerate(values[first:end])]
    (folder / 'log' / 'log.inter').write_text('\n'.join(lines) + '\n')


def states(model, dataset, offsets, values):
    """The state after each history, which is multiplied with the embeddings of the items."""
    tokens = dataset.field2id_token['item_id'][1:].astype(np.int64)
    internal = np.zeros(tokens.max() + 1, np.int64)
    internal[tokens] = np.arange(1, len(tokens) + 1)
    found = []
    model.eval()
    with torch.no_grad():
        for first in range(0, len(offsets) - 1, ROWS):
            rows = range(first, min(first + ROWS, len(offsets) - 1))
            x, lengths = np.zeros((len(rows), SLOTS), np.int64), np.zeros(len(rows), np.int64)
            for i, row in enumerate(rows):
                history = internal[values[offsets[row] : offsets[row + 1]][-SLOTS:]]
                x[i, : len(history)], lengths[i] = history, len(history)
            found.append(model(torch.tensor(x), torch.tensor(lengths)).numpy())
        vectors = np.zeros((len(internal), found[0].shape[1]), np.float32)
        vectors[tokens] = model.item_embedding.weight.numpy()[1:]
    return np.concatenate(found), vectors


def main():
    """Trains, and writes curve.json and the states of every epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument('data')
    parser.add_argument('folder', type=pathlib.Path)
    parser.add_argument('--seconds', type=float, default=600)
    given = parser.parse_args()
    data = dict(np.load(given.data))
    write_events(data, given.folder)
    config = Config(
        model='SASRec',
        dataset='log',
        config_dict={
            'data_path': str(given.folder),
            'checkpoint_dir': str(given.folder),
            'USER_ID_FIELD': 'user_id',
            'ITEM_ID_FIELD': 'item_id',
            'TIME_FIELD': 'timestamp',
            'load_col': {'inter': ['user_id', 'item_id', 'timestamp']},
            'MAX_ITEM_LIST_LENGTH': SLOTS,
            'train_neg_sample_args': None,
            'eval_args': {
                'split': {'LS': 'valid_and_test'},
                'order': 'TO',
                'group_by': 'user',
                'mode': 'full',
            },
            'n_layers': 2,
            'n_heads': 1,
            'hidden_size': 64,
            'inner_size': 256,
            'use_gpu': False,
            'show_progress': False,
        },
    )
    init_seed(0, True)
    dataset = create_dataset(config)
    train, _, _ = data_preparation(config, dataset)
    model = SASRec(config, train._dataset)
    trainer = Trainer(config, model)
    seconds, epochs = 0.0, []
    while seconds < given.seconds:
        began = time.perf_counter()
        trainer._train_epoch(train, len(epochs))
        seconds += time.perf_counter() - began
        epochs.append(seconds)
        found = {
            name: states(model, dataset, data[f'{name}_offsets'], data[f'{name}_values'])
            for name in ('validation', 'test')
        }
        np.savez(
            given.folder / f'epoch_{len(epochs)}.npz',
            items=found['test'][1],
            **{name: rows for name, (rows, _) in found.items()},
        )
        (given.folder / 'curve.json').write_text(json.dumps({'seconds': epochs}))


if __name__ == '__main__':
    main()
