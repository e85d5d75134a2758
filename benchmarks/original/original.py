"""The process that drives the authors' PyTorch code: `python -m benchmarks.original.original`.

Its own argument parsing, template, loaders and trainer are imported from a clone, unmodified, and
called from outside; the working directory is a folder that stands in for the clone's.
"""

import importlib.metadata
import itertools
import os
import sys
import time
from typing import Any

from benchmarks.original.memory import peak_host_bytes
from benchmarks.original.protocol import serve
from emkd_jax.errors import UserError


class Original:
    """The handlers of `serve`; `set_up` comes first."""

    def set_up(
        self, clone: str, dataset_code: str, device: str, arguments: dict[str, Any], tuned: bool
    ) -> dict[str, Any]:
        """Builds data, model and trainer as the original's main program does.

        Args:
          clone: the folder to import from.
          dataset_code: the original's name of the data set.
          device: 'cpu' or 'cuda'.
          arguments: what to set in its arguments after its template has set them.
          tuned: allow TF32.

        Returns:
          Sizes of the data as the original counts them, and what it runs on.

        Raises:
          UserError: a module that it imports is missing, or its arguments are not the known ones.
        """
        sys.dont_write_bytecode = True  # nothing is written into the clone
        sys.path.insert(0, clone)
        sys.argv = [
            'main.py',
            '--template',
            'train_bert',
            '--dataset_code',
            dataset_code,
            '--device',
            device,
        ]
        try:
            from dataloaders.bert import BertDataloader
            from datasets import dataset_factory
            from models import BERTModel
            from options import args
            from trainers.bert import BERTTrainer
            from utils import setup_train
        except ModuleNotFoundError as error:
            raise UserError(
                f"The original imports '{error.name}', which is not installed here; "
                'run pip install -r requirements-benchmark.txt.'
            ) from None
        unknown = arguments.keys() - vars(args).keys()
        if unknown:
            raise UserError(
                f'The original in {clone} has no argument {min(unknown)}; '
                'check out the released code (commit 984d46c).'
            )
        vars(args).update(arguments)
        args.device_idx = os.environ.get('CUDA_VISIBLE_DEVICES', args.device_idx)
        self._cuda = device == 'cuda'
        if self._cuda:
            self._check_cuda()
        if tuned:
            import torch

            torch.set_float32_matmul_precision('high')

        export_root = setup_train(args)
        loaders = BertDataloader(args, dataset_factory(args)).get_pytorch_dataloaders()
        if self._cuda:  # indexed by device arrays in training, which PyTorch refuses for a host one
            args.attribute_one_hot_label_matrix = args.attribute_one_hot_label_matrix.to(device)
        self._trainer = BERTTrainer(args, BERTModel(args), *loaders, export_root)
        self._train_batches = itertools.chain.from_iterable(itertools.repeat(loaders[0]))
        self._seen = 0
        return {
            'counts': {
                'users': len(loaders[1].dataset),
                'items': args.num_items,
                'attributes': args.num_attributes,
                'windows': len(loaders[0].dataset),
            },
            'versions': {'torch': _version('torch')},
        }

    def train(self, seconds: float, min_steps: int) -> dict[str, Any]:
        """Runs the original's loop over an epoch, on batches handed out until time is up."""
        steps = sequences = 0
        start = time.perf_counter()

        def batches():
            nonlocal steps, sequences
            while steps < min_steps or time.perf_counter() - start < seconds:
                batch = next(self._train_batches)
                steps, sequences = steps + 1, sequences + len(batch[0])
                yield batch

        self._trainer.train_loader = batches()
        self._seen = self._trainer.train_one_epoch(0, self._seen)
        self._synchronize()
        return {'steps': steps, 'sequences': sequences, 'seconds': time.perf_counter() - start}

    def evaluate(self, max_batches: int | None = None) -> dict[str, Any]:
        """The original's validation pass, less the checkpoints that it saves at the end of one."""
        trainer = self._trainer
        loader, logger = trainer.val_loader, trainer.logger_service
        users = 0

        def batches():
            nonlocal users
            for batch in itertools.islice(loader, max_batches):
                users += len(batch)
                yield batch

        trainer.val_loader, trainer.logger_service = batches(), _NoLoggers()
        start = time.perf_counter()
        trainer.validate(0, self._seen)
        self._synchronize()
        seconds = time.perf_counter() - start
        trainer.val_loader, trainer.logger_service = loader, logger
        return {'users': users, 'seconds': seconds}

    def memory(self) -> dict[str, int | None]:
        """The most that was held so far."""
        device = None
        if self._cuda:
            import torch

            device = torch.cuda.max_memory_allocated()
        return {'host': peak_host_bytes(), 'device': device}

    def _check_cuda(self):
        import torch

        if not torch.cuda.is_available():
            raise UserError(
                f'This PyTorch ({torch.__version__}) sees no GPU while JAX does; install a build '
                'of PyTorch for this CUDA, or compare on the CPU with JAX_PLATFORMS=cpu.'
            )

    def _synchronize(self):
        if self._cuda:
            import torch

            torch.cuda.synchronize()


class _NoLoggers:
    """Takes the place of the original's loggers, which save the weights, in a validation pass."""

    def log_val(self, values: dict[str, Any]) -> None:
        pass


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    original = Original()
    serve(
        {
            'set_up': original.set_up,
            'train': original.train,
            'evaluate': original.evaluate,
            'memory': original.memory,
        }
    )


if __name__ == '__main__':
    main()
