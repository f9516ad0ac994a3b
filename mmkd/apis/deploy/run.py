"""From a plain student to a file beside it: written, compared with PyTorch, timed, told."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.apis.deploy.check import Check, compare
from mmkd.apis.deploy.costs import FLOPS_BY, row, size_of, times
from mmkd.apis.deploy.formats import RUNTIME, SUFFIX, Written, require_onnx, write
from mmkd.apis.deploy.graph import OUTPUTS, Graph, check_kind
from mmkd.apis.deploy.image import find_image
from mmkd.distiller.members.member import Member
from mmkd.utils.atomic import write_atomically
from mmkd.utils.checkpoints import load_checkpoint_file
from mmkd.utils.checks import check_choice, check_count, printable
from mmkd.utils.config_file import read_config
from mmkd.utils.explain import explain
from mmkd.utils.literals import read_config_text
from mmkd.utils.tables import make_console, print_table
from mmkd.version import __version__

REPEATS = 20


@dataclass(frozen=True)
class Report:
    """What was written and found.

    Args:
        file: The file; None where it was refused.
        check: How far it is from PyTorch.
        dynamic: Whether it takes any number of images at once.
        image: Where the image of the check came from.
        size: Height and width that the file is fixed to.
        rows: Of the table of costs.
        notes: What is to be said below it.
    """

    file: Path
    check: Check
    dynamic: bool
    image: str
    size: tuple[int, int]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def deploy(
    weights: str | Path,
    config: str | Path,
    kind: str = 'onnx',
    image: str | None = None,
    force: bool = False,
    repeats: int = REPEATS,
    teacher: Any = None,
) -> Report:
    """Write a plain student as one file beside its weights, and compare it with PyTorch.

    Args:
        weights: As ``mmkd.export_student`` writes them.
        config: The config beside them.
        kind: 'onnx' or 'torch_export'.
        image: An image file; None: the first one of the test set, else a generated one.
        force: Keep a file that differs.
        repeats: Times are the median of so many.
        teacher: Its description, as in the config of the run; None leaves it out of the table.

    Raises:
        ImportError: A library is missing.
        RuntimeError: The model cannot be traced.
        ValueError: The file differs from PyTorch; another kind of model.
    """
    check_choice('kind', kind, SUFFIX)
    check_count('repeats', repeats, 1)
    if kind == 'onnx':
        require_onnx()
    member = Member.parse('student', 'student', dict(cfg=str(config), checkpoint=str(weights)))
    model, cfg = member.build().eval(), read_config(str(config))
    check_kind(model)
    data, source = find_image(cfg, model, image)
    graph, images, reference = graph_of(model, data)
    written = write(kind, graph, images, _about(graph, reference, weights))
    check = check_written(written, graph, images, reference)
    file = Path(weights).with_suffix(SUFFIX[kind])
    if not check.passed and not force:
        raise ValueError(
            f'{file} was not kept, it does not compute what PyTorch computes: {check}. Mend: '
            f'another format ({" or ".join(f"--{key}".replace("_", "-") for key in SUFFIX)}), or '
            '--force, which keeps it'
        )
    write_atomically(written.content, file)
    report = Report(file, check, written.dynamic, source, graph.size)
    cases: dict[str, Callable[[Tensor], Any]] = {'PyTorch': graph, RUNTIME[kind]: written.run}
    own = size_of(weights, file)
    taught_by = _teacher_graph(teacher, data, report.notes)
    if taught_by is not None:
        whole, checkpoint = taught_by
        spent = times({'PyTorch': whole}, images[:1], repeats)
        report.rows.append(
            row('teacher', whole, images[:1], size_of(checkpoint), spent, RUNTIME[kind])
        )
    spent = times(cases, images[:1], repeats)
    report.rows.append(row('student', graph, images[:1], own, spent, RUNTIME[kind]))
    return report


@torch.no_grad()
def graph_of(model: nn.Module, data: dict) -> tuple[Graph, Tensor, Tensor]:
    """Return a model's graph, two images for it (one and its mirror), and the model's own outputs.

    The outputs are those of the model's data preprocessor and network, not of the graph.

    Args:
        model: The model.
        data: One image, as a data set gives it.

    Raises:
        ValueError: The data preprocessor does what the graph does not.
    """
    pixels = data['inputs']
    images = torch.stack([pixels, pixels.flip(-1)])
    samples = [data['data_samples'].clone() for _ in images]
    seen = model.data_preprocessor(dict(inputs=list(images), data_samples=samples), False)  # type: ignore[operator]
    x = seen['inputs']
    graph = Graph(model, tuple(pixels.shape[-2:]), tuple(x.shape[-2:]))
    images = images.float()
    own = graph.preprocess(images)
    if own.shape != x.shape or not torch.allclose(own, x, rtol=1e-4, atol=1e-4):
        raise ValueError(
            f'the {type(model.data_preprocessor).__name__} of this model does more than turn '
            'channels, normalise and pad below and on the right, so the graph would see other '
            'images. Mend: a data_preprocessor that does no more in a test'
        )
    return graph, images, graph.by_the_model(x)


@torch.no_grad()
def check_written(written: Written, graph: Graph, images: Tensor, reference: Tensor) -> Check:
    """Compare a file's outputs with the model's, on as many images as it takes."""
    number = len(images) if written.dynamic else 1
    output, reference = written.run(images[:number].contiguous()), reference[:number]
    labels = graph.labels(output), graph.labels(reference)
    return compare(output, reference, None if labels[0] is None else labels)  # type: ignore[arg-type]


def _about(graph: Graph, output: Tensor, weights: str | Path) -> dict[str, Any]:
    """Return what the file says of itself, so that it can be used without its config."""
    meta = load_checkpoint_file(weights).get('meta') or {}
    one = graph.kind == 'segmentation' and output.shape[1] == 1
    own = dict(threshold=f'foreground where sigmoid(logits) > {graph.threshold}') if one else {}
    return dict(
        mmkd_version=__version__,
        task=graph.kind,
        inputs=f'pixels 0 ... 255, float32, (N, 3, {graph.size[0]}, {graph.size[1]}), channels as '
        'the data pipeline loads them (BGR unless it says otherwise); mean, std and padding are '
        'inside',
        logits=OUTPUTS[graph.kind],
        classes=list((meta.get('dataset_meta') or {}).get('classes') or []),
        **own,
    )


def _teacher_graph(
    teacher: Any, data: dict, notes: list[str]
) -> tuple[Graph, str | Path | None] | None:
    """Return the teacher's graph and its checkpoint; None, and a note, where it cannot be had."""
    if teacher is None:
        notes.append('No row for a teacher: the checkpoint holds no single one.')
        return None
    try:
        member = Member.parse('teacher', 'teacher', teacher)
        if member.checkpoint is None:
            raise ValueError('it has no checkpoint')
        graph, _, _ = graph_of(member.build().eval(), data)
    except Exception as error:  # its weights may be elsewhere, its library missing: said below
        why = printable(explain(error).partition('. Mend')[0], 160)
        notes.append(f'No row for the teacher: {why}.')
        return None
    return graph, member.checkpoint


def deploy_student(
    args: argparse.Namespace, weights: str | Path, config: str | Path, checkpoint: str | Path
) -> None:
    """Do what the flags of ``mmkd export`` ask for, and print it.

    Files of earlier weights go first: what lies beside weights was written from them.

    Args:
        args: The command line.
        weights: Of the plain student.
        config: Beside them.
        checkpoint: Of the run, whose config names the teacher.
    """
    for suffix in SUFFIX.values():
        Path(weights).with_suffix(suffix).unlink(missing_ok=True)
    if args.deploy is None:
        return
    repeats = args.repeats or REPEATS
    meta = load_checkpoint_file(checkpoint).get('meta') or {}
    run = read_config_text(meta['cfg'], f'the config in {checkpoint}')
    teacher = (run.get('model') or {}).get('teacher')
    found = deploy(weights, config, args.deploy, args.image, args.force, repeats, teacher)
    runtime, threads = RUNTIME[args.deploy], torch.get_num_threads()
    batch = 'any number of images' if found.dynamic else 'one image at a time'
    size = f'{found.size[0]}×{found.size[1]} pixels (height × width)'
    print(f'wrote {found.file}: input inputs, output logits, {batch}, fixed to {size}')
    print(f'compared with PyTorch on {found.image}: {found.check}')
    if not found.check.passed:
        print('warning: it differs from PyTorch, and was kept because of --force')
    print_table(
        make_console(),
        f'One image, median of {repeats}, {threads} thread{"s" * (threads > 1)}',
        ('', 'file', 'parameters', 'FLOPs', 'PyTorch', runtime),
        found.rows,
    )
    print(f'FLOPs by {FLOPS_BY}.', *found.notes)
