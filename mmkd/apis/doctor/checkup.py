"""The check-up of a config, before a GPU-day is spent on it."""

import copy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from mmkd.apis.doctor.data import (
    check_classes,
    check_folders,
    check_labels,
    check_last_batch,
    check_unlabelled,
    draw_batches,
)
from mmkd.apis.doctor.evaluation import check_best, check_evaluation
from mmkd.apis.doctor.measure import (
    count,
    measure_objectives,
    named_wrappers,
    table_cost,
    table_optimizers,
)
from mmkd.apis.doctor.members import evaluate_teachers, table_members
from mmkd.apis.doctor.report import Report
from mmkd.apis.doctor.run import check_disk, check_run
from mmkd.apis.doctor.stored import check_stored
from mmkd.apis.doctor.wiring import Wiring, build_model, find_unused_taps
from mmkd.apis.methods import expand_config
from mmkd.apis.prepare import hand_down_preprocessor, has_gpu, is_distiller
from mmkd.apis.settings import check_sections, optim_wrappers, shares_of
from mmkd.apis.starting_weights import left_as_drawn
from mmkd.distiller.assembly import as_configured
from mmkd.distiller.objectives.objective import stand_in
from mmkd.tasks.base import task_of
from mmkd.tasks.generated import generated_batch
from mmkd.utils.checkpoints import load_checkpoint_file
from mmkd.utils.explain import explain
from mmkd.utils.pretrained import pretrained_keys
from mmkd.utils.timing import peak_memory


def diagnose(
    cfg: Config,
    fake_data: bool = False,
    batches: int = 4,
    batch_size: int | None = None,
    evaluate: int = 0,
    device: str | None = None,
    val_batches: int | None = None,
    size: tuple[int, int] | None = None,
) -> Report:
    """Build, run and measure on one batch everything that training would; collect every problem.

    Args:
        cfg: A config, of a Distiller or of a plain model; it is left as it is.
        fake_data: Measure on generated images and leave the data alone. Without it, missing data is
            an error, and the rest is measured on generated images all the same.
        batches: Training batches whose labels are checked, and test batches.
        batch_size: Images that values and gradients are measured on; None takes at most 2, or as
            many as the objectives need, on a GPU the config's.
        evaluate: Validation batches that every teacher is evaluated on; 0 leaves their quality
            unknown.
        device: Where; None takes a GPU where there is one.
        val_batches: Validation batches that are read; None reads all, as the first validation will.
        size: Height and width of the generated images that the rest is measured on, whatever the
            data; None measures on data, where it is there, of the size that training takes.
    """
    cfg, report = copy.deepcopy(cfg), Report()
    try:
        check_sections(cfg)
    except ValueError as error:  # of nothing else can be asked then
        report.error(error)
        return report
    init_default_scope(cfg.get('default_scope') or 'mmseg')
    device = device or ('cuda' if has_gpu() else 'cpu')
    own_size = (cfg.get('train_dataloader') or {}).get('batch_size', 1)
    if not isinstance(own_size, int) or own_size < 1:
        own_size = 1  # check_run says what is wrong with it
    shares = shares_of(cfg.get('train_dataloader') or {})
    apart = shares is not None and bool((cfg.get('model') or {}).get('task_weight', 1))
    parts = [one for share in shares for one in share if one] if apart and shares else [own_size]
    _write_out_method(cfg, report)
    check_run(cfg, report)
    wiring = build_model(cfg, report, size) if 'model' in cfg else Wiring()
    # two images of a kind, where images with labels pass apart: norms need them
    few = 4 if shares and min(map(max, shares)) > 1 else 2
    few = min(own_size, max(few, _least_images(wiring.model)))
    batch_size = batch_size or (own_size if device != 'cpu' else few)
    check_classes(cfg, wiring.students, dict(getattr(wiring.model, 'teachers', {})), report)
    data = None
    if not fake_data:
        missing = check_folders(cfg, report)
        if 'train_dataloader' in cfg and 'train' not in missing:
            data = _examine_data(cfg, wiring, batches, batch_size, report)
        known = len(report.errors)
        for split, wanted in (('val', val_batches), ('test', batches)):
            if cfg.get(f'{split}_dataloader') and split not in missing:
                check_evaluation(cfg, split, wiring, wanted, report)
        if cfg.get('val_dataloader') and 'val' not in missing and len(report.errors) == known:
            check_best(cfg, wiring, report)
    if wiring.model is None:
        return report

    if is_distiller(cfg):
        quality = evaluate_teachers(cfg, wiring.model, evaluate, device, report) if evaluate else {}
        table_members(cfg, wiring.model, quality, report)
        check_stored(cfg, wiring.model, report)
        for text in find_unused_taps(wiring.model, cfg.model) if wiring.whole else []:
            report.warn(text)
    else:
        report.note(
            f'the model is no Distiller: this trains a plain {type(wiring.model).__name__} of '
            f'{count(wiring.model.parameters())} parameters, and nothing is distilled'
        )
    _check_load_from(cfg, wiring, report)
    _check_norms(wiring, min(parts, default=own_size), device, report)
    if data is None or size:
        data = _generated(cfg, wiring, batch_size, size, report)
    _train(cfg, wiring, data, own_size / batch_size, device, report)
    return report


def _least_images(model: Any) -> int:
    objectives = getattr(model, 'objectives', {}).values()
    return max((one.contract.least_images for one in objectives), default=1)


def _write_out_method(cfg: Config, report: Report) -> None:
    try:
        expand_config(cfg)
        hand_down_preprocessor(cfg)
    except Exception as error:
        report.error(error)


def _examine_data(
    cfg: Config, wiring: Wiring, batches: int, batch_size: int, report: Report
) -> dict | None:
    """Check batches; return one that could be trained on."""
    drawn, images = draw_batches(cfg, report, batches, batch_size)
    samples = sum(images)
    check_last_batch(cfg, samples, wiring.students, report)
    beside = []
    if images[1]:
        held = check_unlabelled(cfg, images, wiring.model if wiring.whole else None, report)
        beside = [('without labels', f'{images[1]} of {samples}'), ('in a batch', held)]
    student: Any = next(iter(wiring.students.values()), None)
    preprocessor = getattr(wiring.model, 'data_preprocessor', None) or getattr(
        student, 'data_preprocessor', None
    )
    task = task_of(student, preprocessor)
    if not drawn or preprocessor is None or not task.known:
        return next(iter(drawn), None)
    rows, good = check_labels(drawn, as_configured(preprocessor), task, report)
    looked = [
        ('training samples', samples),
        *beside,
        ('looked at', f'{len(drawn)} batches of {batch_size}'),
    ]
    report.table('data', ('what', 'value'), [*looked, *rows])
    return next(iter(good), None)


def _check_load_from(cfg: Config, wiring: Wiring, report: Report) -> None:
    """Report what ``load_from`` would leave as drawn; of a part of a model nothing can be said."""
    path = cfg.get('load_from')
    if not path or cfg.get('resume') or not wiring.whole:
        return
    try:
        left = left_as_drawn(wiring.model, load_checkpoint_file(path), path)
    except Exception as error:
        report.error(error)
        return
    if left is not None:
        report.warn(left)


def _check_norms(wiring: Wiring, batch_size: int, device: str, report: Report) -> None:
    modules = [module for student in wiring.students.values() for module in student.modules()]
    if device == 'cpu' and any(isinstance(module, nn.SyncBatchNorm) for module in modules):
        report.warn('SyncBN cannot run on a CPU: there it is trained as plain BatchNorm')
    if batch_size == 1 and any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules
    ):
        report.warn(
            'BatchNorm with one image on a device, or one of a kind beside images without labels: '
            'its statistics are noise, and a map pooled to 1×1 (PSPNet, ASPP) is an error. Mend: '
            'train_dataloader.batch_size of at least 2, and shares of at least 2'
        )


def _generated(
    cfg: Config, wiring: Wiring, batch_size: int, size: tuple[int, int] | None, report: Report
) -> dict:
    source = wiring.model.data_preprocessor
    task = task_of(next(iter(wiring.students.values())), source)
    size = size or getattr(source, 'size', None) or cfg.get('crop_size') or task.size
    report.note(
        f'values, gradients and memory are measured on generated images of {tuple(size)}, not on '
        'data'
    )
    return generated_batch(batch_size, tuple(size), task)


def _train(
    cfg: Config, wiring: Wiring, data: dict, share: float, device: str, report: Report
) -> None:
    """Initialise as a run does, measure the objectives, then take one real step."""
    model: Any = wiring.model
    try:
        model.init_weights()
    except Exception as error:
        text = explain(error).rstrip('.')
        report.error(
            f'init_weights: {text}. Mend: fetch these weights{_without_weights(cfg, model)}'
        )
    try:
        model = revert_sync_batchnorm(model).to(device).train()
        if is_distiller(cfg):
            for run in model.runs.values():
                run.compile = False  # it takes minutes and changes no value
                stands_in = run.stand_in()
                if stands_in:
                    report.note(stands_in)
            for line in stand_in(model.objectives.values()):
                report.note(line)
            measure_objectives(model, model.data_preprocessor(copy.deepcopy(data), True), report)
        # of a part, phases and optimizers would speak of what is not there
        if wiring.whole and 'optim_wrapper' in cfg:
            torch.manual_seed(0)
            optimizers = _without_amp(cfg.optim_wrapper.to_dict(), device, report)
            wrapper = build_optim_wrapper(model, optimizers)
            table_optimizers(model, wrapper, report)
            for one in named_wrappers(wrapper).values():
                one._accumulative_counts = 1  # a step that steps: optimizers get their state
            model.train_step(copy.deepcopy(data), wrapper)
            transient = peak_memory(lambda: model.train_step(copy.deepcopy(data), wrapper), device)
            check_disk(cfg, table_cost(model, wrapper, transient, share, cfg, report), report)
    except Exception as error:
        report.error(error)


def _without_weights(cfg: Config, model: Any) -> str:
    """Return how to start without the weights that this config asks for, to be pasted into it."""
    if not is_distiller(cfg):
        options = ' '.join(f'{key}={value}' for key, value in pretrained_keys(cfg.model))
        return f', or start without them: --cfg-options {options}' if options else ''
    wanted = {}
    for name, run in model.runs.items():
        if run.role == 'student' or run.member.checkpoint is None:
            wanted[name] = dict(pretrained_keys(run.member.model))
    mends = [
        f'{name}=dict(…, cfg_options={options})' for name, options in wanted.items() if options
    ]
    return f', or start without them: {", ".join(mends)}' if mends else ''


def _without_amp(config: dict, device: str, report: Report) -> dict:
    """Return the optimizers without mmengine's AMP where that asserts, on a CPU."""
    for _, one in optim_wrappers(config):
        if device == 'cpu' and one.get('type') == 'AmpOptimWrapper':
            report.note('AmpOptimWrapper needs a GPU: the step is taken in float32 here')
            one['type'] = 'OptimWrapper'
            for key in ('loss_scale', 'dtype', 'use_fsdp'):
                one.pop(key, None)
    return config
