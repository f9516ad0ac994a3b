"""From two configs and a checkpoint to a student, in one line.

It writes a short config, yours to edit, checks it as mmkd doctor does,
trains, tests, and exports a plain model. Exit code 1 where it would not train
as meant. The same line again goes on where the run was left.

Example::

    mmkd distill student.py teacher.py teacher.pth --method skd
"""

import argparse

from mmkd.apis.flags import CfgOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('student', help="the student's config: data, schedule and runtime too")
    parser.add_argument(
        'teacher',
        nargs='?',
        help="the teacher's config; of peers the other one's; left out where a student teaches "
        'itself',
    )
    parser.add_argument(
        'checkpoint', nargs='*', help="the teacher's weights; several files are several teachers"
    )
    parser.add_argument(
        '--method',
        action='append',
        metavar='NAME',
        help='what is learned (default: kd); kd:weight=3,tau=4 with options; may be given several '
        'times; mmkd methods lists them',
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


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what contradicts itself."""
    if args.name and args.work_dir:
        parser.error('--work-dir is the folder, --name one in work_dirs: give one of them')


def main(args: argparse.Namespace) -> int | None:
    """Distil; 1 where the check finds that the config would not train as meant."""
    from mmkd.apis.distill import distill
    from mmkd.apis.pairing import Pairing, read_method
    from mmkd.utils.tables import make_console

    pairing = Pairing(
        student=args.student,
        teacher=args.teacher,
        checkpoints=tuple(args.checkpoint),
        methods=tuple(map(read_method, args.method or ['kd'])),
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
