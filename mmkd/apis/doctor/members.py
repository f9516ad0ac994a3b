"""The members of a Distiller as the doctor tables them, and how good its teachers are."""

from types import SimpleNamespace
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from mmkd.apis.doctor.data import in_this_process
from mmkd.apis.doctor.evaluation import val_evaluator
from mmkd.apis.doctor.measure import count, students_first
from mmkd.apis.doctor.report import Report
from mmkd.distiller.members.kinds.follower import Follower
from mmkd.engine.hooks import TeacherCheckHook
from mmkd.tasks import Described

SHOWN = ('kind', 'precision', 'channels_last', 'fuse_bn', 'compile', 'input_size')


def table_members(cfg: Config, model: Any, quality: dict[str, str], report: Report) -> None:
    """Table students and teachers; warn of teachers that have no weights."""
    rows = []
    for run in students_first(model.runs):
        name, member = run.name, run.member
        written = _written(cfg.model, name, member.role)
        teaches = member.role == 'teacher'
        checkpoint = written.get('checkpoint') or written.get('path')
        if teaches and checkpoint is None and member.loads_its_own:
            checkpoint = 'its own weights'
        if teaches and checkpoint is None and written.get('allow_untrained'):
            report.warn(f'{member.where} has no weights (allow_untrained=True): it teaches noise')
        rows.append(
            (
                name,
                member.role,
                _kind(run.model),
                count(run.model.parameters()) if run.live else '–',
                checkpoint or _in_its_place(run, teaches),
                ', '.join(f'{key}={written[key]}' for key in SHOWN if written.get(key)) or '–',
                quality.get(name, 'not measured' if run.live else 'stored') if teaches else '–',
            )
        )
    report.table(
        'members',
        ('member', 'role', 'model', 'parameters', 'checkpoint', 'options', 'quality'),
        rows,
    )


def _in_its_place(run: Any, teaches: bool) -> str:
    if isinstance(run, Follower):
        return f'follows ({type(run.rule).__name__})'
    return 'untrained' if teaches else '–'


def evaluate_teachers(
    cfg: Config, model: Any, batches: int, device: str, report: Report
) -> dict[str, str]:
    """Evaluate every teacher on validation batches, by the hook that does so before training.

    A teacher that is hardly better than chance is an error: it would spoil the training.
    """
    written: dict = next(
        (h for h in cfg.get('custom_hooks') or [] if 'TeacherCheckHook' in str(h.get('type'))), {}
    )
    hook = TeacherCheckHook(batches, written.get('minimum'), written.get('maximum'))
    try:
        loader = cfg.val_dataloader
        loop = SimpleNamespace(
            dataloader=Runner.build_dataloader(
                in_this_process(loader, loader.get('batch_size', 1)), seed=0
            ),
            evaluator=val_evaluator(cfg),
        )
        said: list[str] = []
        logger = SimpleNamespace(info=lambda text: None, warning=said.append)
        hook.before_train(
            SimpleNamespace(model=model.to(device), iter=0, val_loop=loop, logger=logger)
        )
        for text in said:  # a teacher without results is not known to be bad
            bad = any(repr(name) in text for name in hook.results)
            (report.error if bad else report.warn)(text)
    except Exception as error:
        report.error(error)
    quality = {}
    for name, metrics in hook.results.items():
        values = ', '.join(f'{key} {value:.4g}' for key, value in metrics.items())
        quality[name] = f'{values} on {batches} batches'
    return quality


def _written(config: dict, name: str, role: str) -> dict:
    one = config.get(role)
    value = (config.get(f'{role}s') or {}).get(name) if one is None else one
    return value if isinstance(value, dict) else {}


def _kind(model: Any) -> str:
    if isinstance(model, Described):
        return model.type_name
    parts = [
        type(getattr(model, part)).__name__
        for part in ('backbone', 'decode_head')
        if hasattr(model, part)
    ]
    return ' + '.join(parts if hasattr(model, 'decode_head') else [type(model).__name__, *parts])
