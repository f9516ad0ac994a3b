"""Whether a stored teacher was stored for the run of a config, and for all of it."""

from typing import Any

from mmengine.config import Config

from mmkd.apis.doctor.report import Report
from mmkd.engine.hooks.stored_teacher import stored_runs
from mmkd.utils.stored.facts import facts_of_run
from mmkd.utils.stored.shards import shards_of, stored_until


def check_stored(cfg: Config, model: Any, report: Report) -> None:
    """Report stored teachers that do not fit this run, as the training would refuse them.

    Args:
        cfg: The config.
        model: Its Distiller.
        report: Where mistakes go.
    """
    seed = (cfg.get('randomness') or {}).get('seed')
    rows = []
    for run in stored_runs(model):
        # on how many devices it will train nobody has said yet
        world = run.member.manifest.run.get('world_size')
        try:
            here = facts_of_run(cfg, model.data_preprocessor, seed) | dict(world_size=world)
            run.member.check_run(here)
        except ValueError as error:
            report.error(error)
        until, length = stored_until(shards_of(run.member.path, 0)), _length(cfg)
        if length is not None and until < length:
            report.error(
                f'{run.where}: {run.member.path} holds {until} iterations, this run has {length}. '
                f'Mend: mmkd store with the same arguments goes on to {length}'
            )
        kept = ', '.join(f'{tap} {one.kept}' for tap, one in run.stored.taps.items())
        rows.append((run.name, run.member.path, str(until), str(world), kept))
    if rows:
        report.table(
            'stored teachers', ('teacher', 'folder', 'iterations', 'processes', 'kept'), rows
        )


def _length(cfg: Config) -> int | None:
    return (cfg.get('train_cfg') or {}).get('max_iters')
