"""TFDS builders of the three data sets, read back without TensorFlow.

A set has two configs of one split each: `histories` with an example a user, and `items` with one
an item.
"""

import pathlib
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from emkd_jax.data import files

SPLITS = {'histories': 'users', 'items': 'items'}  # by config
_FEATURES = {
    'histories': {
        'user_id': np.int64,  # original
        'history': tfds.features.Tensor(shape=(None,), dtype=np.int32),  # items, oldest first
    },
    'items': {
        'item_id': np.int64,  # original; the items' own numbers count up from 1
        'attributes': tfds.features.Tensor(shape=(None,), dtype=np.int32),
    },
}


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Prepares one release from its files in the TFDS `manual_dir`."""

    VERSION = tfds.core.Version('1.0.0')
    BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name=name) for name in _FEATURES]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "A folder with the layout of the authors' repository."
    release: ClassVar[files.Release]

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description='Interactions of users with items, and the attributes of the items.',
            features=tfds.features.FeaturesDict(_FEATURES[self.builder_config.name]),
            disable_shuffling=True,  # users and items stay in their order
            homepage='https://github.com/hw-du/EMKD',
        )

    def _split_generators(self, dl_manager):
        folder = pathlib.Path(dl_manager.manual_dir)
        return {SPLITS[self.builder_config.name]: self._generate_examples(folder)}

    def _generate_examples(self, folder):
        files.verify(self.release, folder)
        read = files.read_histories(folder / self.release.histories.path)
        if self.builder_config.name == 'histories':
            for user, user_id in enumerate(read.user_ids):
                yield user, {'user_id': user_id, 'history': read.histories[user]}
        else:
            attributes = files.read_attributes(
                folder / self.release.attributes.path, len(read.item_ids)
            )
            for item, item_id in enumerate(read.item_ids, start=1):
                row = attributes[item]
                yield item, {'item_id': item_id, 'attributes': row[row > 0]}


class EmkdToys(_Builder):
    """Amazon Toys and Games, 5-core, as released with EMKD."""

    release = files.RELEASES['toys']


class EmkdBeauty(_Builder):
    """Amazon Beauty, 5-core, as released with EMKD."""

    release = files.RELEASES['beauty']


class EmkdMl1m(_Builder):
    """MovieLens-1M, as released with EMKD."""

    name = 'emkd_ml_1m'
    release = files.RELEASES['ml_1m']


BUILDERS = {'toys': EmkdToys, 'beauty': EmkdBeauty, 'ml_1m': EmkdMl1m}
