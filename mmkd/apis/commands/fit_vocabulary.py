"""Fit the vocabularies of a QUEST config beforehand: runs share them so.

A config reads the file by AssignmentKLLoss(vocabulary=…); without one, each run
fits its own before the first step.

Example::

    mmkd fit-vocabulary my_quest.py words.pth
"""

import argparse
import os
import re
import tempfile
from collections.abc import Iterable
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


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what looks like a file but would become a folder."""
    out = Path(args.out)
    meant = args.out.endswith(('.pth', '/', os.sep)) or out.is_dir()
    if not meant and re.fullmatch(r'\.[A-Za-z]\w*', out.suffix):
        parser.error(
            f'out must be a file ….pth, or a folder, got {args.out!r}. Mend: '
            f'{out.with_suffix(".pth")}, or {args.out}/ where a folder is meant'
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
        paths = _paths(args.out, sources)
        for path in paths.values():
            _check_target(path)
        seed = runner.seed if args.seed is None else args.seed
        loader: Any = training_images(runner.cfg, images=args.images, seed=seed)
        reports = fit_vocabularies(sources, loader, batches_of(model), args.max_vectors, seed)
        for name, report in reports.items():
            path = paths[name]
            facts = dict(config=args.config, images=len(loader.dataset), seed=seed)
            write_vocabulary(path, sources[name], **facts, **report)
            print(
                f'wrote {path}: {report}; use it by objectives.{name}.loss.vocabulary={str(path)!r}'
            )


def _paths(out: str, names: Iterable[str]) -> dict[str, Path]:
    """Return the file of every vocabulary.

    >>> {name: str(path) for name, path in _paths('words', ['a', 'b']).items()}
    {'a': 'words/a.pth', 'b': 'words/b.pth'}
    """
    own = out.endswith('.pth')
    return {name: Path(out) if own else Path(out) / f'{name}.pth' for name in names}


def _is_vocabulary(path: Path) -> bool:
    from mmkd.utils.checkpoints import load_checkpoint_file

    try:
        return 'words' in load_checkpoint_file(str(path))
    except Exception:  # whatever it is, it is somebody's
        return False


def _check_target(path: Path) -> None:
    """Refuse before the fit a file that cannot be written after it.

    Raises:
        SystemExit: A folder is called so, or a file that is no vocabulary; a file is in its way;
            nothing may be written there.
    """
    mend = 'Mend: a file ….pth, or a folder, where files may be written'
    if path.is_dir():
        raise SystemExit(f'out: {path} must be a file, but it is a folder. {mend}')
    if path.exists() and not _is_vocabulary(path):
        raise SystemExit(f'out: {path} is there, and is no vocabulary that may be replaced. {mend}')
    above = path.absolute().parents
    there = next(folder for folder in above if os.path.lexists(folder))
    if not there.is_dir():
        raise SystemExit(f'out: {path} must be in a folder, but {there} is a file. {mend}')
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise SystemExit(f'out: {path} cannot be written ({error}). {mend}') from error
