"""Folders as runs and tests leave them, for what reads reports."""

import json
from pathlib import Path

HARDWARE = dict(device='A CPU, 1 threads', torch='2.13.0', mmkd='0.1.0')


def write_run(
    folder: Path,
    miou: float,
    seconds: float | None = 50.0,
    time: str = '20260101_000000',
    metric: str = 'mIoU',
    **changes: object,
) -> None:
    """Write what one run and its test leave."""
    test = folder / 'test' / time
    test.mkdir(parents=True)
    (test / f'{time}.json').write_text(
        json.dumps({metric: miou, 'aAcc': 90.0, 'data_time': 0.1, 'time': 0.2})
    )
    (folder / 'vis_data').mkdir(exist_ok=True)
    (folder / 'vis_data' / 'scalars.json').write_text(
        '{"loss": 1}\n{"loss": 2}\n'
    )  # no test result
    if seconds is not None:
        record = dict(
            seconds=2 * seconds,
            cpu_seconds=seconds,
            iterations=100,
            batch_size=8,
            processes=1,
            **HARDWARE,
        )
        (folder / 'run.json').write_text(json.dumps(record | changes))
