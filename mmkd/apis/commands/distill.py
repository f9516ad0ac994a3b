"""From two configs and a checkpoint to a trained, tested, exported student.

Writes a config of ten lines, which is yours to edit, and checks it as mmkd
doctor does. Exit code 1 where it would not train as meant. The same line again
goes on where the run was left.

Example::

    mmkd distill student.py teacher.py teacher.pth --method skd
"""

import argparse

from mmkd.apis.flags import CfgOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('student', help="the student's config: data, schedule and runtime too")
    parser.add_argument('teacher', help="the teacher's config; of peers the other one's")
    parser.add_argument(
        'checkpoint', nargs='*', help="the teacher's weights; several files are several teachers"
    )
    parser.add_argument(
        '--method',
        action='append',
        metavar='NAME',
        help='what is learned (default: kd); may be given several times; mmkd methods lists them',
    )
    parser.add_argument('--name', help='of the folder (default: <student>_<method>)')
    parser.add_argument('--work-dir', help='the folder itself (default: work_dirs/<name>)')
    parser.add_argument('--iters', type=int, help="length of the run (default: the student's)")
    parser.add_argument('--seed', type=int, help="of the run (default: the student's)")
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='override settings of this run',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision for every optimizer')
    parser.add_argument('--dry-run', action='store_true', help='write and check, train nothing')
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='write the config anew, and begin anew where a run lies',
    )


def main(args: argparse.Namespace) -> int | None:
    """Distil; 1 where the check finds that the config would not train as meant."""
    from mmkd.apis.distill import Pairing, distill
    from mmkd.utils.tables import make_console

    pairing = Pairing(
        student=args.student,
        teacher=args.teacher,
        checkpoints=tuple(args.checkpoint),
        methods=tuple(args.method or ['kd']),
        name=args.name,
        work_dir=args.work_dir,
        iters=args.iters,
        seed=args.seed,
    )
    done = distill(
        pairing,
        make_console(),
        options=args.cfg_options,
        amp=args.amp,
        dry_run=args.dry_run,
        overwrite=args.overwrite,
        verbose=args.verbose,
    )
    return 0 if done else 1
