"""Check a config before training by it: members, taps, objectives, optimizers, cost."""

import argparse
import sys

import mmkd  # noqa: F401  first: it mends the stack and registers every component

# isort: split
from mmengine.logging import MMLogger

from mmkd.apis.cli import CfgOptions, common_flags, count, run
from mmkd.apis.doctor import Report, diagnose
from mmkd.apis.launch import load_config
from mmkd.utils.tables import make_console


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Check a config; exit status 1 where there are errors'
    )
    parser.add_argument('config', help='config file, or pkg::path')
    parser.add_argument(
        '--fake-data', action='store_true', help='generated images in place of the data set'
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
        help="images to measure on (default: 2; on a GPU the config's)",
    )
    parser.add_argument(
        '--evaluate', type=count(0), default=0, metavar='N', help='evaluate teachers on N batches'
    )
    parser.add_argument('--device', help='default: a GPU where there is one')
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptions, help='override settings: key=value …'
    )
    args = common_flags(parser).parse_args()
    if args.fake_data and args.evaluate:
        parser.error('--evaluate needs the validation data, which --fake-data leaves alone')
    return args


def main() -> None:
    """Diagnose, print, and fail where there are errors."""
    args = parse_args()
    MMLogger.get_instance('mmkd_doctor', log_level='INFO' if args.verbose else 'ERROR')
    try:
        cfg = load_config(args.config, args.cfg_options)
    except Exception as error:
        report = Report()
        report.error(error)
    else:
        report = diagnose(
            cfg,
            args.fake_data,
            args.batches,
            args.batch_size,
            args.evaluate,
            args.device,
            args.val_batches,
        )
    report.print(make_console())
    sys.exit(0 if report.ok else 1)


if __name__ == '__main__':
    run(main)
