"""n steps, a resume and n more steps give, bit for bit, what 2n steps give."""

from collections.abc import Iterator, Mapping
from math import gcd
from typing import Any

from mmengine.dataset import DefaultSampler
from mmengine.dist import get_rank
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import BatchSampler, DataLoader

from mmkd.datasets.seeded import SAMPLERS, seeded_loader
from mmkd.registry import HOOKS
from mmkd.utils.kinds import bare_name
from mmkd.utils.seeds import TRAIN_STEP, VALIDATION, seed_everything

LOOPS = (IterBasedTrainLoop, EpochBasedTrainLoop)  # whose position is known
# whether the loop of a resumed run asks its iterator to skip, or draws what was done once more
_SKIPS = hasattr(_InfiniteDataloaderIterator, 'skip_iter')


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Make randomness a function of where the training stands: nothing of it needs to be saved.

    * Each train step starts from the generator state that (seed, rank, iteration) gives; a
      validation likewise.
    * The training data loader is rebuilt from the config's own: its order is a function of (seed,
      pass), and each sample's augmentation of (seed, position in the training), in whichever worker
      it runs. A resumed run starts at position = iterations done × batch size, at once.

    Restoring saved generator states cannot do this: workers prefetch with states of their own, the
    checkpoint is written before the validation that follows it, and only rank 0 saves.

    Exact on the CPU, and on an accelerator as far as its kernels are deterministic. With gradient
    accumulation a checkpoint is exact between two optimizer steps only, so intervals that would cut
    an accumulation are refused.

    Raises:
        ValueError: no seed is set, a checkpoint interval is no multiple of
            ``accumulative_counts``, or checkpoints lie inside of the epochs of a loop of epochs.
        TypeError: the loop, or the order of the data loader's sampler, is not known.
    """

    priority = 'VERY_HIGH'
    seed: int

    def before_train(self, runner: Runner) -> None:
        """Rebuild the loop's data loader; a resumed iteration is already restored here."""
        loop = runner.train_loop
        if type(loop) not in LOOPS:
            raise TypeError(
                'ExactResumeHook serves IterBasedTrainLoop and EpochBasedTrainLoop, got '
                f'{type(loop).__name__}; take it out of custom_hooks to train without exact resume'
            )
        self.seed = _seed_of(runner)
        _check_saves(runner)
        _check_accumulation(runner)
        by_epoch = type(loop) is EpochBasedTrainLoop
        loop.dataloader = seeded_loader(loop.dataloader, self.seed, by_epoch)
        if by_epoch:
            if runner.iter != runner.epoch * len(loop.dataloader):
                raise ValueError(
                    f'cannot resume exactly at iteration {runner.iter}, inside an epoch of '
                    f'{len(loop.dataloader)}: EpochBasedTrainLoop starts the epoch anew. Save with '
                    'checkpoint=dict(by_epoch=True), or use IterBasedTrainLoop; this checkpoint '
                    'goes on without ExactResumeHook alone'
                )
        else:
            loop.dataloader.sampler.skip(runner.iter * loop.dataloader.batch_size)
            loop.dataloader_iterator = _Stream(loop.dataloader, 0 if _SKIPS else runner.iter)

    def before_train_epoch(self, runner: Runner) -> None:
        """Start the epoch's part of the stream."""
        runner.train_loop.dataloader.sampler.set_epoch(runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed this step after its batch was fetched, which may draw from the same generators."""
        seed_everything(self.seed, TRAIN_STEP, get_rank(), runner.iter)

    def after_train(self, runner: Runner) -> None:
        """End the workers here: left to the garbage collector each would hold it up for seconds."""
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            runner.train_loop.dataloader_iterator = None

    def before_val_epoch(self, runner: Runner) -> None:
        """Seed a validation inside a training; ``mmkd test`` is left alone."""
        if hasattr(self, 'seed'):
            seed_everything(self.seed, VALIDATION, get_rank(), runner.iter)


def resumes_exactly(config: Mapping[str, Any]) -> bool:
    """Return whether a config's loop and order of images are such as ExactResumeHook goes on with.

    Args:
        config: Of a training; what it leaves out is mmengine's default.

    >>> resumes_exactly(dict(train_cfg=dict(max_iters=9)))
    True
    >>> resumes_exactly(dict(train_dataloader=dict(sampler=dict(type='ClassAwareSampler'))))
    False
    """
    loop, loader = config.get('train_cfg') or {}, config.get('train_dataloader') or {}
    default = EpochBasedTrainLoop if loop.get('by_epoch') else IterBasedTrainLoop
    kinds = (
        (loop.get('type', default), LOOPS),
        ((loader.get('sampler') or {}).get('type', DefaultSampler), SAMPLERS),
        ((loader.get('batch_sampler') or {}).get('type', BatchSampler), (BatchSampler,)),
    )
    return all(bare_name(kind) in map(bare_name, known) for kind, known in kinds)


class _Stream:
    """The endless iterator of IterBasedTrainLoop; workers start with the first batch.

    Args:
        loader: Its sampler already stands behind what was done.
        drawn_again: How many batches the loop of a resumed run draws and throws away: upstream's
            mmengine all that were done, onedl's none.
    """

    def __init__(self, loader: DataLoader, drawn_again: int) -> None:
        self.loader = loader
        self.drawn_again = drawn_again
        self.batches: Iterator | None = None

    def __iter__(self) -> '_Stream':
        return self

    def __next__(self) -> Any:
        if self.drawn_again > 0:
            self.drawn_again -= 1
            return None
        if self.batches is None:
            self.batches = iter(self.loader)
        return next(self.batches)

    def skip_iter(self, iterations: int) -> None:
        """Do nothing: the loop asks a resumed run to skip, and the sampler already starts there."""


def _seed_of(runner: Runner) -> int:
    """Return the seed that all ranks share and a checkpoint restores."""
    # runner.seed differs by rank under diff_rank_seed, and is never None
    seed = runner._randomness_cfg.get('seed')
    if seed is None:
        raise ValueError(
            'ExactResumeHook needs a seed. Mend: randomness=dict(seed=0) in the config (with '
            'seed=None every start of the run draws another one)'
        )
    return seed


def _check_saves(runner: Runner) -> None:
    """Refuse checkpoints inside an epoch, which a loop of epochs cannot go on from."""
    loop = runner.train_loop
    if not isinstance(loop, EpochBasedTrainLoop):
        return
    length = len(loop.dataloader)
    for hook in runner.hooks:
        inside = isinstance(hook, CheckpointHook) and not hook.by_epoch
        places = (hook.interval, hook.save_begin) if inside else ()
        if places and 0 < hook.interval < runner.max_iters and any(one % length for one in places):
            raise ValueError(
                f'checkpoints every {hook.interval} iterations lie inside of epochs of {length}, '
                'from where EpochBasedTrainLoop cannot go on exactly. Mend: default_hooks='
                "dict(checkpoint=dict(by_epoch=True, interval=1)), or train_cfg=dict(type='"
                "IterBasedTrainLoop', max_iters=…)"
            )


def _check_accumulation(runner: Runner) -> None:
    """Refuse checkpoints between two optimizer steps: half a gradient is not in them."""
    saves = list(_saves(runner))
    wrapper = runner.optim_wrapper
    for name, part in dict(getattr(wrapper, 'optim_wrappers', {'': wrapper})).items():
        counts, which = part._accumulative_counts, f' of optimizer {name!r}' if name else ''
        for kind, number, own in saves:
            # at the end of a run every optimizer steps, whatever it has accumulated
            if 0 < number * own < runner.max_iters and number * own % counts:
                least = counts // gcd(own, counts)
                epochs = f' epochs of {own} iterations' * (own > 1)
                raise ValueError(
                    f'{kind}={number}{epochs} is no multiple of accumulative_counts={counts}'
                    f'{which}: a checkpoint between two optimizer steps holds half a gradient and '
                    f'cannot be resumed exactly. Write {-(-number // least) * least}'
                )


def _saves(runner: Runner) -> Iterator[tuple[str, int, int]]:
    """Yield what decides on when checkpoints are written, its number, and of how many iterations.

    A hook that counts epochs, in a loop that has none, saves after validations alone.
    """
    loop = runner.train_loop
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    epoch = len(loop.dataloader) if by_epoch else 1
    for hook in runner.hooks:
        if not isinstance(hook, CheckpointHook):
            continue
        if by_epoch or not hook.by_epoch:
            unit = epoch if hook.by_epoch else 1
            yield 'checkpoint interval', hook.interval, unit
            yield 'checkpoint save_begin', hook.save_begin, unit
        if hook.save_best and runner.val_loop is not None:
            yield 'val_interval', loop.val_interval, epoch
