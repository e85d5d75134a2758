"""The process that drives the authors' PyTorch code.

Its argument parser, template, loaders and trainer are imported from a clone, unmodified, and called
from outside. The working directory is a folder that stands in for that of the clone.
"""

import contextlib
import importlib.metadata
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from emkd_jax.analysis.benchmark.memory import peak_host_bytes
from emkd_jax.analysis.benchmark.protocol import serve
from emkd_jax.errors import UserError, install_command


class PyTorchSide:
    """Answers the requests of the parent; `set_up` comes first."""

    def set_up(
        self, clone: str, dataset_code: str, device: str, arguments: dict[str, Any], tuned: bool
    ) -> dict[str, Any]:
        """Builds data, model and trainer as the main program of the original does.

        Args:
          clone: the folder to import from.
          dataset_code: the name of the data set in the original.
          device: 'cpu' or 'cuda'.
          arguments: set in the original's arguments after its template has set them.
          tuned: whether TF32 is allowed.

        Returns:
          Sizes of the data as the original counts them, and versions.

        Raises:
          UserError: a module is missing, or the original does not know an argument.
        """
        sys.dont_write_bytecode = True  # nothing is written into the clone
        sys.path.insert(0, clone)
        sys.argv = ['main.py', '--template', 'train_bert']
        sys.argv += ['--dataset_code', dataset_code, '--device', device]
        try:
            from dataloaders.bert import BertDataloader
            from datasets import dataset_factory
            from models import BERTModel
            from options import args
            from trainers.bert import BERTTrainer
            from utils import setup_train
        except ModuleNotFoundError as error:
            raise UserError(
                f"The original imports '{error.name}', which is not installed; run: "
                f'{install_command("[torch]")}'
            ) from None
        unknown = arguments.keys() - vars(args).keys()
        if unknown:
            raise UserError(
                f'The original in {clone} has no argument {min(unknown)}; '
                'check out the released code (commit 984d46c).'
            )
        vars(args).update(arguments)
        args.device_idx = os.environ.get('CUDA_VISIBLE_DEVICES', args.device_idx)
        self._cuda = _open_cuda() if device == 'cuda' else None
        if tuned:
            import torch

            torch.set_float32_matmul_precision('high')

        export_root = setup_train(args)
        loaders = BertDataloader(args, dataset_factory(args)).get_pytorch_dataloaders()
        if self._cuda:  # the trainer indexes this host array by device arrays, which fails
            args.attribute_one_hot_label_matrix = args.attribute_one_hot_label_matrix.to(device)
        self._trainer = BERTTrainer(args, BERTModel(args), *loaders, export_root)
        self._train_batches = itertools.chain.from_iterable(itertools.repeat(loaders[0]))
        self._sequences_seen = 0
        versions = {}
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions['torch'] = importlib.metadata.version('torch')
        return {
            'counts': {
                'users': len(loaders[1].dataset),
                'items': args.num_items,
                'attributes': args.num_attributes,
                'windows': len(loaders[0].dataset),
            },
            'versions': versions,
        }

    def train(self, seconds: float, min_steps: int) -> dict[str, Any]:
        """Runs the original's loop over an epoch, which ends when the time is up."""
        lengths: list[int] = []
        start = time.perf_counter()

        def batches() -> Iterator[Any]:
            while len(lengths) < min_steps or time.perf_counter() - start < seconds:
                batch = next(self._train_batches)
                lengths.append(len(batch[0]))
                yield batch

        self._trainer.train_loader = batches()
        self._sequences_seen = self._trainer.train_one_epoch(0, self._sequences_seen)
        taken = self._seconds_since(start)
        return {'steps': len(lengths), 'sequences': sum(lengths), 'seconds': taken}

    def evaluate(self, max_batches: int | None = None) -> dict[str, Any]:
        """Runs the original's validation pass without the checkpoints that it saves at the end."""
        trainer, lengths = self._trainer, []
        loader, logger = trainer.val_loader, trainer.logger_service

        def counted(batches: Iterable[Any]) -> Iterator[Any]:
            for batch in batches:
                lengths.append(len(batch))
                yield batch

        trainer.val_loader = counted(itertools.islice(loader, max_batches))
        trainer.logger_service = _NoLogger()
        start = time.perf_counter()
        trainer.validate(0, self._sequences_seen)
        taken = self._seconds_since(start)
        trainer.val_loader, trainer.logger_service = loader, logger
        return {'users': sum(lengths), 'seconds': taken}

    def memory(self) -> dict[str, int | None]:
        """Returns the peak memory in bytes so far, of the host and of the device."""
        device = self._cuda.max_memory_allocated() if self._cuda else None
        return {'host': peak_host_bytes(), 'device': device}

    def _seconds_since(self, start: float) -> float:
        if self._cuda:
            self._cuda.synchronize()
        return time.perf_counter() - start


class _NoLogger:
    """Takes the place of the original's logger, which saves the weights after a validation."""

    def log_val(self, values: dict[str, Any]) -> None:
        pass


def _open_cuda() -> Any:
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            f'This PyTorch ({torch.__version__}) finds no GPU while JAX does; install a build of '
            'PyTorch for this version of CUDA, or compare on the CPU with JAX_PLATFORMS=cpu.'
        )
    return torch.cuda


if __name__ == '__main__':
    serve(PyTorchSide())
