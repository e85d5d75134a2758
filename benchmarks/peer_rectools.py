"""Trains RecTools' SASRec for `peers.py`; runs in an environment that has RecTools alone.

python benchmarks/peer_rectools.py DATA FOLDER --loss=softmax --seconds=600

Its training to the end takes hours. A later call with more seconds goes on after the last epoch,
and so does its clock.
"""

import argparse
import json
import pathlib
import time

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

SLOTS, ROWS = 50, 512


def states(network, ids, offsets, values):
    """The state after each history, which is multiplied with the embeddings of the items."""
    found = []
    network.eval()
    internal = np.zeros(values.max() + 1, np.int64)
    internal[ids.external_ids[1:].astype(np.int64)] = np.arange(1, ids.size)
    with torch.no_grad():
        items = network.item_model.get_all_embeddings()
        for first in range(0, len(offsets) - 1, ROWS):
            rows = range(first, min(first + ROWS, len(offsets) - 1))
            x = np.zeros((len(rows), SLOTS), np.int64)
            for i, row in enumerate(rows):
                history = internal[values[offsets[row] : offsets[row + 1]][-SLOTS:]]
                x[i, SLOTS - len(history) :] = history
            found.append(network.encode_sessions({'x': torch.tensor(x)}, items)[:, -1].numpy())
        vectors = np.zeros((values.max() + 1, items.shape[1]), np.float32)
        vectors[ids.external_ids[1:].astype(np.int64)] = items.numpy()[1:]
    network.train()
    return np.concatenate(found), vectors


class Resuming(pl.Trainer):
    """A trainer that begins with a checkpoint, where there is one."""

    def __init__(self, checkpoint, **options):
        super().__init__(**options)
        self.checkpoint = checkpoint

    def fit(self, *arguments):
        """Trains; the arguments are those of RecTools."""
        super().fit(*arguments, ckpt_path=self.checkpoint if self.checkpoint.exists() else None)


class Curve(pl.Callback):
    """Writes the states after every epoch, and stops the training when its time is up."""

    def __init__(self, data, folder, seconds, checkpoint):
        self.data, self.folder, self.limit, self.checkpoint = data, folder, seconds, checkpoint
        self.began, self.epochs = 0.0, []
        if checkpoint.exists():
            self.epochs = json.loads((folder / 'curve.json').read_text())['seconds']
        self.seconds = self.epochs[-1] if self.epochs else 0.0

    def histories(self, name):
        """Offsets and values of the held-out histories of one split."""
        return self.data[f'{name}_offsets'], self.data[f'{name}_values']

    def on_train_epoch_start(self, trainer, module):
        """Starts the clock."""
        self.began = time.perf_counter()

    def on_train_epoch_end(self, trainer, module):
        """Stops the clock, which runs in training alone, and writes the states."""
        self.seconds += time.perf_counter() - self.began
        self.epochs.append(self.seconds)
        ids = module.data_preparator.item_id_map
        found = {
            name: states(module.torch_model, ids, *self.histories(name))
            for name in ('validation', 'test')
        }
        np.savez(
            self.folder / f'epoch_{len(self.epochs)}.npz',
            items=found['test'][1],
            **{name: rows for name, (rows, _) in found.items()},
        )
        trainer.save_checkpoint(self.checkpoint)
        (self.folder / 'curve.json').write_text(json.dumps({'seconds': self.epochs}))
        trainer.should_stop = self.seconds >= self.limit


def main():
    """Trains, and writes curve.json and the states of every epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument('data')
    parser.add_argument('folder', type=pathlib.Path)
    parser.add_argument('--loss', default='softmax')
    parser.add_argument('--seconds', type=float, default=600)
    given = parser.parse_args()
    data = dict(np.load(given.data))
    pl.seed_everything(0)
    users = np.repeat(np.arange(len(data['train_offsets']) - 1), np.diff(data['train_offsets']))
    events = pd.DataFrame(
        {
            Columns.User: users,
            Columns.Item: data['train_values'],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.Timestamp(0) + pd.to_timedelta(np.arange(len(users)), 's'),
        }
    )
    model = SASRecModel(
        session_max_len=SLOTS,
        n_factors=64,
        n_blocks=2,
        n_heads=1,
        loss=given.loss,
        n_negatives=256,
        batch_size=128,
    )
    checkpoint = given.folder / 'last.ckpt'
    curve = Curve(data, given.folder, given.seconds, checkpoint)
    model._trainer = Resuming(
        checkpoint,
        max_epochs=100,
        accelerator='cpu',
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[curve],
    )
    model.fit(Dataset.construct(events))


if __name__ == '__main__':
    main()
