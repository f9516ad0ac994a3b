"""What a tap of each member may read, in the order in which it is made."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmkd.apis.doctor.report import Report
from mmkd.apis.doctor.wiring import Collected
from mmkd.apis.prepare import is_distiller
from mmkd.distiller.assembly import Settings
from mmkd.distiller.members.member import Member
from mmkd.distiller.members.reading import as_dict
from mmkd.distiller.members.renormalise import shared_preprocessor
from mmkd.distiller.members.tracing import rows_of, trace_member
from mmkd.distiller.probe import probe_batch, probing
from mmkd.utils.kinds import is_made


def list_taps(cfg: Config, size: tuple[int, int] | None = None) -> Report:
    """Return, member by member, every module that ran and what it made: tap, shape, stride, marks.

    Nothing else of the config need be right: each member is built for itself, without its weights.

    Args:
        cfg: A config, of a Distiller or of a plain model.
        size: Height and width of the image; None takes the data preprocessor's.
    """
    report = Report()
    if cfg.get('model') is None:
        report.error("the config has no 'model', so there is nothing to tap")
        return report
    mistakes = Collected(report)
    init_default_scope(cfg.get('default_scope') or 'mmseg')
    students: dict[str, Any] = {}
    source = None
    for member in _members(cfg, mistakes):
        with mistakes.of(), probing():
            model = member.make()
            if member.role == 'student':
                students[member.name] = model
            if not students:
                continue  # that it cannot be built is said already
            if source is None:
                source = shared_preprocessor(_own_preprocessor(cfg), students, member.scope)
            batch = probe_batch(students, source, size)
            rows = [
                (row.tap, str(row.shape) if row.shape else '', row.stride, row.marks)
                for row in rows_of(trace_member(member, model, batch))
            ]
            title = f'taps of {member.where}, of one image of {tuple(batch.inputs.shape[2:])}'
            report.table(title, ('tap', 'shape', 'stride', 'marks'), rows)
    return report


def _members(cfg: Config, mistakes: Collected) -> Iterator[Member]:
    """Yield every member that can be read, students first."""
    settings = Settings.of(cfg.model) if is_distiller(cfg) else Settings(student=cfg.model)
    for role in ('student', 'teacher'):
        named: dict[str, Any] = {}
        with mistakes.of():
            named = settings.named(role)
        for name, value in named.items():
            if is_made(value):  # its taps are those of what it is made of
                continue
            with mistakes.of():
                yield Member.read(name, role, as_dict(value, f'{role} {name!r}'))


def _own_preprocessor(cfg: Config) -> Any:
    return cfg.model.get('data_preprocessor') if is_distiller(cfg) else None
