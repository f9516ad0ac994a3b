"""Check a config before training by it: members, taps, objectives, data, cost.

It builds everything that a training would, looks at the data, and takes one
step. Exit code 0: ready to train. 1: there are errors, it would not train as
meant; warnings do not count. 2: the command line is wrong.

Example::

    mmkd doctor my_distill.py --fake-data --size 128 128
"""

import argparse

from mmkd.apis.flags import config_flags, count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    config_flags(parser)
    parser.add_argument(
        '--fake-data', action='store_true', help='generated images in place of the data set'
    )
    parser.add_argument(
        '--evaluate', type=count(0), default=0, metavar='N', help='evaluate teachers on N batches'
    )
    parser.add_argument(
        '--batches',
        type=count(1),
        default=4,
        help='training batches to check the labels of (default: 4)',
    )
    parser.add_argument(
        '--val-batches',
        type=count(1),
        metavar='N',
        help='validation batches to read (default: all)',
    )
    parser.add_argument(
        '--batch-size',
        type=count(1),
        help="images to measure on (default: 2, or what objectives need; on a GPU the config's)",
    )
    parser.add_argument(
        '--size',
        type=count(1),
        nargs=2,
        metavar=('H', 'W'),
        help='measure on generated images of this size: quicker where it is small, and its costs '
        "are not the training's",
    )
    parser.add_argument('--device', help='default: a GPU where there is one')
    parser.add_argument(
        '--taps',
        action='store_true',
        help='list what a tap of each member may read, in the order in which it is made, and '
        'nothing else: path, shape, stride, and which point it is',
    )


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what contradicts itself."""
    if args.fake_data and args.evaluate:
        parser.error('--evaluate needs the validation data, which --fake-data leaves alone')
    if args.taps and args.evaluate:
        parser.error('--taps lists what taps may read and evaluates nothing. Mend: one of the two')
    of_data = ('batches', 'val_batches', 'batch_size', 'fake_data', 'device')
    given = [name for name in of_data if getattr(args, name) != parser.get_default(name)]
    if args.taps and given:
        parser.error(
            f'--taps looks at one generated image: leave --{given[0].replace("_", "-")} out'
        )


def main(args: argparse.Namespace) -> int:
    """Diagnose, print, and fail where there are errors."""
    from mmengine.logging import MMLogger

    from mmkd.apis.doctor import Report, diagnose, list_taps
    from mmkd.apis.launch import load_config
    from mmkd.utils.tables import make_console

    MMLogger.get_instance('mmkd_doctor', log_level='INFO' if args.verbose else 'ERROR')
    size = tuple(args.size) if args.size else None
    try:
        cfg = load_config(args.config, args.cfg_options)
    except Exception as error:
        report = Report()
        report.error(error)
    else:
        if args.taps:
            report = list_taps(cfg, size)
            report.print(make_console(), verdict=False)
            return 0 if report.ok else 1
        report = diagnose(
            cfg,
            args.fake_data,
            args.batches,
            args.batch_size,
            args.evaluate,
            args.device,
            args.val_batches,
            size,
        )
    report.print(make_console())
    return 0 if report.ok else 1
