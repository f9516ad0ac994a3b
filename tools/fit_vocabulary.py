"""Fit the vocabularies of a QUEST config beforehand, so that runs share them."""

import argparse
import tempfile
from pathlib import Path

import mmkd  # noqa: F401  first: it mends the stack and registers every component

# isort: split

from mmkd.apis.cli import CfgOptions, common_flags, count, run
from mmkd.apis.launch import build_runner, load_config
from mmkd.apis.prepare import prepare_config
from mmkd.apis.settings import check_sections
from mmkd.losses.quest.fitting import (
    MAX_VECTORS,
    batches_of,
    fit_vocabularies,
    vocabulary_sources,
    write_vocabulary,
)
from mmkd.losses.quest.training_images import training_images


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Fit the vocabularies of a QUEST config beforehand, for '
        '``AssignmentKLLoss(vocabulary=…)``: runs share them so.'
    )
    parser.add_argument('config', help='config file, or pkg::path such as mmkd::quest/….py')
    parser.add_argument(
        'out', help='file to write (….pth), or a folder for <objective>.pth of every level'
    )
    parser.add_argument(
        '--images', type=count(1), help='how many training images, evenly spaced (default: all)'
    )
    parser.add_argument(
        '--max-vectors',
        type=count(1),
        default=MAX_VECTORS,
        help='vectors for each vocabulary, at most',
    )
    parser.add_argument(
        '--seed', type=count(0), help="of positions and k-means (default: the config's)"
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptions, help='override settings: key=value …'
    )
    return common_flags(parser).parse_args()


def main() -> None:
    """Fit and write."""
    args = parse_args()
    with tempfile.TemporaryDirectory() as logs:
        cfg = load_config(args.config, args.cfg_options, logs)
        check_sections(cfg)
        for objective in ((cfg.get('model') or {}).get('objectives') or {}).values():
            if isinstance(objective, dict) and isinstance(objective.get('loss'), dict):
                objective.loss.pop('vocabulary', None)  # what is to be written need not be there
        runner = build_runner(prepare_config(cfg), args.verbose)
        model = runner.model
        sources = vocabulary_sources(model.objectives, model.runs) if hasattr(model, 'runs') else {}
        if not sources:
            raise SystemExit(
                f'{args.config} has no AssignmentKLLoss among its objectives, so there is nothing '
                'to fit'
            )
        if args.out.endswith('.pth') and len(sources) > 1:
            raise SystemExit(
                f'{args.config} has the vocabularies {list(sources)}, one file holds one: give a '
                'folder'
            )
        seed = runner.seed if args.seed is None else args.seed
        loader = training_images(runner.cfg, images=args.images, seed=seed)
        reports = fit_vocabularies(sources, loader, batches_of(model), args.max_vectors, seed)
        for name, report in reports.items():
            path = Path(args.out) if args.out.endswith('.pth') else Path(args.out) / f'{name}.pth'
            facts = dict(config=args.config, images=len(loader.dataset), seed=seed)
            write_vocabulary(path, sources[name], **facts, **report)
            print(
                f'wrote {path}: {report}; use it by objectives.{name}.loss.vocabulary={str(path)!r}'
            )


if __name__ == '__main__':
    run(main)
