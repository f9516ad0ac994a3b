"""What a member costs where it is used: its file, parameters, FLOPs and the time of one image."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmkd.apis.deploy.graph import Graph
from mmkd.utils.timing import interleaved_times

FLOPS_BY = 'torch.utils.flop_counter (a multiplication and an addition are two)'


@torch.no_grad()
def flops(graph: Graph, images: Tensor) -> int:
    """Return the floating-point operations of convolutions and matrix products, attention's too.

    Args:
        graph: The model.
        images: Of which the operations are counted.
    """
    with _in_matrix_products(), FlopCounterMode(display=False) as counter:
        graph(images)
    return counter.get_total_flops()


@contextmanager
def _in_matrix_products() -> Iterator[None]:
    """Have attention computed so that it is counted: of fused kernels torch counts a few alone."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def size_of(*files: str | Path | None) -> str:
    """Return the sizes of files that are there, in megabytes, with the ending of each.

    >>> size_of('no_such_file.pth')
    '?'
    """
    there = [Path(file) for file in files if file is not None and Path(file).is_file()]
    sizes = [f'{file.stat().st_size / 1e6:.2f} MB {file.suffix}' for file in there]
    return ', '.join(sizes) or '?'


@torch.no_grad()
def times(cases: Mapping[str, Callable[[Tensor], Any]], image: Tensor, repeats: int) -> dict:
    """Return the median milliseconds of one image in each case, run in turn."""
    runs = {name: lambda run=run: run(image) for name, run in cases.items()}
    found = interleaved_times(runs, iters=repeats, warmup=max(1, repeats // 4))
    return {name: 1000 * seconds for name, seconds in found.items()}


def row(
    name: str, graph: Graph, image: Tensor, files: str, spent: Mapping[str, float], runtime: str
) -> tuple[str, ...]:
    """Return one line of the table; what was not measured is a dash."""
    count = sum(weight.numel() for weight in graph.model.parameters())
    operations = flops(graph, image)
    cells = [f'{spent[key]:.2f} ms' if key in spent else '–' for key in ('PyTorch', runtime)]
    return name, files, f'{count:,}', f'{operations / 1e9:.3f} G', *cells
