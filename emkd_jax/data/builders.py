"""TFDS builders of the three released data sets, which are read back without TensorFlow.

A data set has two configs with one split each: `histories` has one example for each user, and
`items` has one for each item. Importing this module imports TFDS, which takes time.
"""

import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from emkd_jax.data import released

SPLITS = {'histories': 'users', 'items': 'items'}  # the split of each config
_FEATURES = {
    'histories': {
        'user_id': np.int64,  # the original id
        'history': tfds.features.Tensor(shape=(None,), dtype=np.int32),  # items, oldest first
    },
    'items': {
        'item_id': np.int64,  # the original id; the n-th example is item n
        'attributes': tfds.features.Tensor(shape=(None,), dtype=np.int32),
    },
}


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[misc, call-arg]
    """Prepares a data set from the released files, which are in the TFDS `manual_dir`."""

    VERSION = tfds.core.Version('1.0.0')
    BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name=name) for name in _FEATURES]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "A folder with the layout of the authors' repository."
    data_name: ClassVar[str]  # the key of `released.RELEASES`

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description='Interactions of users with items, and the attributes of the items.',
            features=tfds.features.FeaturesDict(_FEATURES[self.builder_config.name]),
            disable_shuffling=True,  # users and items keep their order
            homepage='https://github.com/hw-du/EMKD',
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[Any]]:
        folder = pathlib.Path(dl_manager.manual_dir)
        return {SPLITS[self.builder_config.name]: self._generate_examples(folder)}

    def _generate_examples(self, folder: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
        release = released.RELEASES[self.data_name]
        read = released.read_histories(released.read_verified(release.histories, folder))
        if self.builder_config.name == 'histories':
            for user, user_id in enumerate(read.user_ids):
                yield user, {'user_id': user_id, 'history': read.histories[user]}
        else:
            content = released.read_verified(release.attributes, folder)
            attributes = released.read_attributes(content, len(read.item_ids))
            for item, item_id in enumerate(read.item_ids):
                numbers = np.array(attributes[item], np.int32)
                yield item, {'item_id': item_id, 'attributes': numbers}


class EmkdToys(_Builder):
    """Amazon Toys and Games, 5-core, as released with EMKD."""

    data_name = 'toys'


class EmkdBeauty(_Builder):
    """Amazon Beauty, 5-core, as released with EMKD."""

    data_name = 'beauty'


class EmkdMl1m(_Builder):
    """MovieLens-1M, as released with EMKD."""

    name = 'emkd_ml_1m'
    data_name = 'ml_1m'


BUILDERS = {builder.data_name: builder for builder in (EmkdToys, EmkdBeauty, EmkdMl1m)}
