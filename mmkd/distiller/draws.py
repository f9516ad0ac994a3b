"""Initial weights that depend on a seed and a name, not on what was built before."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.model import ModuleDict
from mmengine.model.weight_init import update_init_info
from torch import nn

from mmkd.utils.seeds import name_seed, seed_everything


@contextmanager
def own_draws(*names: str) -> Iterator[None]:
    """Draw from generators of one's own inside the block; the global ones are left as they were.

    Inside, torch, numpy and random start from what (``torch.initial_seed()``, names) gives: the
    run's seed decides, and nothing that was drawn before. Generators of devices are left alone.

    Args:
        names: Of what is drawn; other names, other numbers.

    >>> _ = torch.manual_seed(0)
    >>> with own_draws('teacher'):
    ...     first = torch.rand(1)
    >>> between = torch.rand(1)
    >>> with own_draws('teacher'):
    ...     again = torch.rand(1)
    >>> bool(first == again), bool(first == between)
    (True, False)
    """
    seed = name_seed(torch.initial_seed(), '/'.join(names))
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            seed_everything(seed, devices=False)  # the state of a GPU is not kept here
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


class Apart(ModuleDict):
    """Modules of which each draws its initial weights alone, by its own name.

    Args:
        modules: Name -> module.
        kind: What they are, part of what their numbers depend on.
        plain: The one that draws from the global generators, as it would without all the others;
            None: there is none.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], kind: str, plain: str | None = None
    ) -> None:
        super().__init__(modules)
        self.kind, self.plain = kind, plain

    def init_weights(self) -> None:
        """Initialise each that is not yet, as mmengine does of the children of a module."""
        for name, module in self.items():
            if not hasattr(module, 'init_weights') or getattr(module, 'is_init', False):
                continue
            if name == self.plain:
                module.init_weights()
            else:
                with own_draws(self.kind, name, 'init_weights'):
                    module.init_weights()
            if hasattr(self, '_params_init_info'):  # mmengine's record of who initialised what
                update_init_info(module, f'Initialized by {type(module).__name__}.init_weights ')
        self.is_init = True
