"""The whole story on the built-in data: a teacher, a student alone, and one that it teaches."""

import argparse
import json
import sys
from pathlib import Path

import mmkd  # noqa: F401  first: it mends the stack and registers every component

# isort: split
import torch

from mmkd.apis import cli
from mmkd.apis.demo import Story, run_all, table, verdict
from mmkd.apis.demo.pictures import draw_curves, draw_scenes
from mmkd.apis.runs import check_seeds, seeds_flag
from mmkd.utils.tables import make_console, print_table

CONFIGS = Path(__file__).resolve().parents[1] / 'configs' / 'demo'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='The whole story on the built-in data set: a teacher, a student alone, and the '
        'same student taught by the teacher.'
    )
    seeds_flag(parser, (0,), 'seeds of the students; several give ±')
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/demo'), help='where everything is written'
    )
    parser.add_argument(
        '--iters', type=int, help="iterations of each training (default: the configs' own)"
    )
    args = cli.common_flags(parser).parse_args(argv)
    if args.iters is not None and args.iters < 6:
        parser.error(f'--iters must be at least 6 (there are six validations), got {args.iters}')
    check_seeds(parser, args.seeds)
    return args


def main(argv: list[str] | None = None) -> None:
    """Train, print the table, save the picture and the curves."""
    args = parse_args(argv)
    # nets this small gain little from a second thread, and numbers stay the same everywhere
    torch.set_num_threads(1)
    console = make_console()
    console.file = sys.stdout  # else the bar would follow the redirection of what mmengine prints
    story = Story(CONFIGS, args.work_dir, args.seeds, args.iters, args.verbose)
    rows = run_all(story, console)
    print_table(
        console,
        'Structured KD on DigitScenes, test scenes',
        ('', 'mIoU', 'parameters', 'training step'),
        table(rows),
    )
    console.print(verdict(rows))
    with story.quiet():
        draw_scenes(story, args.work_dir / 'scenes.png')
        draw_curves(rows, args.work_dir / 'curves.png')
    (args.work_dir / 'results.json').write_text(json.dumps(rows, indent=1))
    console.print(
        f'Pictures, numbers and logs: {args.work_dir}/scenes.png, curves.png, results.json, */'
    )


if __name__ == '__main__':
    cli.run(main)
