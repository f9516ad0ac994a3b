"""Builds a config's model and names every mistake in it, not only the first."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmkd.apis.doctor.report import Report
from mmkd.apis.prepare import is_distiller
from mmkd.distiller import Distiller
from mmkd.distiller.assembly import Lose, Mistakes, assemble, read_settings, set_size


@dataclass
class Wiring:
    """What could be built.

    Args:
        model: The model; where parts were broken, of the parts that were not; None where that is
            too little.
        students: Name -> student, those that could be built.
        whole: Whether no member, objective or phase was left out; unknown keys, checkpoints and
            noises are not counted.
    """

    model: Any = None
    students: dict[str, nn.Module] = field(default_factory=dict)
    whole: bool = False


class Collected(Mistakes):
    """Mistakes that go to a report; what they are about is left out."""

    def __init__(self, report: Report) -> None:
        self.report = report

    @contextmanager
    def of(self, lose: Lose = None) -> Iterator[None]:
        """Enter a step that may find a mistake."""
        try:
            yield
        except Exception as error:
            self.report.error(error)
            if lose is not None:
                lose()


def build_model(cfg: Config, report: Report, size: tuple[int, int] | None = None) -> Wiring:
    """Build the model of a config; every mistake goes to the report.

    Args:
        cfg: The config.
        report: Where mistakes go.
        size: Height and width that the data preprocessor pads to; None leaves its own.
    """
    config = copy.deepcopy(cfg.model)  # mmseg writes into what it builds from
    if is_distiller(cfg):
        return _build_distiller(config, report, size)
    try:
        model = MODELS.build(config)
    except Exception as error:
        report.error(error)
        return Wiring()
    if size is not None and getattr(model, 'data_preprocessor', None) is not None:
        set_size(model.data_preprocessor, size)
    return Wiring(model, {'student': model}, whole=True)


def _build_distiller(config: dict, report: Report, size: tuple[int, int] | None) -> Wiring:
    mistakes = Collected(report)
    settings = read_settings(config, mistakes)
    parts = assemble(settings, mistakes, size)
    wiring = Wiring(students=parts.students)
    if parts.enough:
        with mistakes.of():
            wiring.model = Distiller.of(parts, settings)
            wiring.whole = not parts.lost
    return wiring


def find_unused_taps(distiller: Distiller, config: dict) -> list[str]:
    """Return what to say about taps that no objective reads."""
    used = {name: set(run.taps.paths) for name, run in distiller.runs.items()}
    anywhere = set().union(*used.values())
    shared = [tap for tap in config.get('taps') or {} if tap not in anywhere]
    found = [f'tap {tap!r} is read by no objective' for tap in shared]
    for name, run in distiller.runs.items():
        unread = [tap for tap in run.member.taps if tap not in used[name]]
        found += [f'tap {tap!r} of {run.where} is read by no objective' for tap in unread]
    return found
