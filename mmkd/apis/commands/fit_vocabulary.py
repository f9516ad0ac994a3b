"""Fit the vocabularies of a QUEST config beforehand: runs share them so.

A config reads the file by AssignmentKLLoss(vocabulary=…); without one, each run
fits its own before the first step.

Example::

    mmkd fit-vocabulary my_quest.py words.pth
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from mmkd.apis.flags import config_flags, count

MAX_VECTORS = 200_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    config_flags(parser)
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
        help=f'vectors for each vocabulary, at most (default: {MAX_VECTORS})',
    )
    parser.add_argument(
        '--seed', type=count(0), help="of positions and k-means (default: the config's)"
    )


def main(args: argparse.Namespace) -> None:
    """Fit and write."""
    from mmkd.apis.launch import build_runner, load_config
    from mmkd.apis.prepare import prepare_config
    from mmkd.apis.settings import check_sections
    from mmkd.losses.fitted.training_images import training_images
    from mmkd.losses.quest.fitting import (
        batches_of,
        fit_vocabularies,
        vocabulary_sources,
        write_vocabulary,
    )

    with tempfile.TemporaryDirectory() as logs:
        cfg: Any = load_config(args.config, args.cfg_options, logs)
        check_sections(cfg)
        for objective in ((cfg.get('model') or {}).get('objectives') or {}).values():
            if isinstance(objective, dict) and isinstance(objective.get('loss'), dict):
                objective['loss'].pop('vocabulary', None)  # what is to be written need not be there
        runner = build_runner(prepare_config(cfg), args.verbose)
        model: Any = runner.model
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
        loader: Any = training_images(runner.cfg, images=args.images, seed=seed)
        reports = fit_vocabularies(sources, loader, batches_of(model), args.max_vectors, seed)
        for name, report in reports.items():
            path = Path(args.out) if args.out.endswith('.pth') else Path(args.out) / f'{name}.pth'
            facts = dict(config=args.config, images=len(loader.dataset), seed=seed)
            write_vocabulary(path, sources[name], **facts, **report)
            print(
                f'wrote {path}: {report}; use it by objectives.{name}.loss.vocabulary={str(path)!r}'
            )
