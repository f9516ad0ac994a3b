"""Student export: plain weights and a plain config that mmsegmentation loads without mmkd."""

import os
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from mmkd.distiller.members.member import Member
from mmkd.distiller.members.plain_config import plain_model_cfg
from mmkd.utils.atomic import write_atomically
from mmkd.utils.checkpoints import load_checkpoint_file, state_dict_in
from mmkd.utils.checks import nearest
from mmkd.utils.config_file import readable_text
from mmkd.utils.literals import read_config_text
from mmkd.utils.pipelines import find_pipeline
from mmkd.utils.pretrained import pretrained_keys
from mmkd.version import __version__

STUDENTS = 'mmkd_students'  # in the meta of a checkpoint: each student's config, by name
# Steps that load annotations by other names than the one that inference takes out.
_ANNOTATIONS = re.compile(r'(\w+\.)?Load(?!Annotations$)\w*Annotations?')
# What inference and evaluation of a plain model read of a run's config.
_CARRIED = (
    'test_pipeline',
    'test_dataloader',
    'test_evaluator',
    'test_cfg',
    'val_dataloader',
    'val_evaluator',
    'val_cfg',
    'tta_model',
    'tta_pipeline',
    'visualizer',
    'vis_backends',
    'env_cfg',
)


def student_state_dict(state_dict: dict[str, Any], member: str = 'student') -> dict[str, Any]:
    """Return the weights of one student out of a Distiller's state dict, without prefix.

    Raises:
        KeyError: The state dict holds no such student.
    """
    prefix = f'students.{member}.'
    state = {
        key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)
    }
    if not state:
        names = sorted({key.split('.')[1] for key in state_dict if key.startswith('students.')})
        raise KeyError(
            f'no student {member!r} in this checkpoint{nearest(member, names)} (students: '
            f'{names or "none; is it a checkpoint of mmkd?"})'
        )
    return {key: value for key, value in state.items() if not key.startswith('data_preprocessor.')}


def student_config(member: Member, run: Config) -> Config:
    """Return the plain config of a student: its model, and how the run validates and tests.

    It builds and tests as it stands: ``mmkd test <work_dir>/student/config.py
    <work_dir>/student/iter_N.pth``.

    Args:
        member: The student's description.
        run: The config of the run that trained it.

    Raises:
        TypeError: The student was given as a built model.
    """
    whole = Config(dict(model=plain_model_cfg(member)))
    whole.merge_from_dict(
        dict(pretrained_keys(whole.model))
    )  # its weights come from the checkpoint
    model = whole.model
    # The Runner hands the run's own data_preprocessor to the Distiller, which then takes it in
    # place of the student's.
    data_preprocessor = run.get('model', {}).get('data_preprocessor') or run.get(
        'data_preprocessor'
    )
    if isinstance(data_preprocessor, dict):
        model.data_preprocessor = data_preprocessor
    config: dict[str, Any] = dict(default_scope=member.scope, model=model)
    for key in _CARRIED:
        if run.get(key) is not None:  # a run may have no test set
            config[key] = run[key]
    for key in ('val_cfg', 'test_cfg'):
        if 'Peer' in str((config.get(key) or {}).get('type')):  # a loop over all students
            config[key] = {**config[key], 'type': config[key]['type'].rpartition('Peer')[-1]}
    loader = config.get('test_dataloader') or config.get('val_dataloader')
    if 'test_pipeline' not in config and loader is not None:
        pipeline = find_pipeline(loader.get('dataset'))
        config.update({} if pipeline is None else dict(test_pipeline=pipeline))
    if 'test_pipeline' in config:
        config['test_pipeline'] = _of_scope(config['test_pipeline'], member.scope)
    imports = _custom_imports(run.get('custom_imports'), member, config)
    return Config(config if imports is None else {**config, 'custom_imports': imports})


def _of_scope(pipeline: Any, scope: str) -> list[dict]:
    """Return the steps of a pipeline with bare names of their own scope.

    Inference of mmseg and mmdet takes out the one that loads annotations, by that name, and those
    of other names are left out here.
    """
    bare = [{**step, 'type': step['type'].removeprefix(f'{scope}.')} for step in pipeline]
    return [step for step in bare if not _ANNOTATIONS.fullmatch(step['type'])]


def _custom_imports(own: Any, member: Member, config: dict[str, Any]) -> dict[str, Any] | None:
    """Return what an exported config imports: mmkd where it needs it, and what the run imported.

    A model loads where mmkd is not installed if only its data or metrics are mmkd's: mmengine warns
    and goes on.
    """
    needed = member.scope == 'mmkd' or _is_of_mmkd(config['model'])
    imports = own.get('imports') or [] if isinstance(own, dict) else own or []
    imports = [
        name
        for name in ([imports] if isinstance(imports, str) else imports)
        if name.split('.')[0] != 'mmkd'
    ]
    if needed:
        print_log(
            f'{member.where} is made of mmkd classes: its exported config imports mmkd',
            logger='current',
        )
    if needed or _is_of_mmkd(config):
        imports.insert(0, 'mmkd')
    return dict(imports=imports, allow_failed_imports=not needed) if imports else None


def _is_of_mmkd(node: Any) -> bool:
    """Return whether a part of a config is built from a class of mmkd.

    >>> _is_of_mmkd(dict(dataset=dict(type='mmkd.CamVid'))), _is_of_mmkd(dict(root='/data/mmkd.2/'))
    (True, False)
    """
    if isinstance(node, dict):
        kind = node.get('type')
        name = kind if isinstance(kind, str) else getattr(kind, '__module__', '')
        return (
            (name or '').split('.')[0] == 'mmkd'
            or node.get('_scope_') == 'mmkd'
            or _is_of_mmkd([*node.values()])
        )
    return isinstance(node, list | tuple) and any(map(_is_of_mmkd, node))


def write_student(
    state_dict: dict[str, Any], meta: dict[str, Any], path: Path, config: str
) -> Path:
    """Write weights, and the config beside them, each whole or not at all; return its path."""
    content = BytesIO()
    # of a run with EMAHook on a GPU they still lie there
    weights = {key: one.cpu() if torch.is_tensor(one) else one for key, one in state_dict.items()}
    torch.save(dict(state_dict=weights, meta=meta), content)
    write_atomically(
        config.encode(), path.parent / 'config.py'
    )  # first: no weights without their config
    write_atomically(content.getvalue(), path)
    return path.parent / 'config.py'


def config_in(meta: dict[str, Any], member: str, value: Any, run: Config) -> Config:
    """Return the config by which a student was trained, as its checkpoint holds it.

    A checkpoint of mmkd 0.3 or before, or without :class:`mmkd.ExportStudentHook`, holds none: the
    files that the run's config names are read as they are today.

    Args:
        meta: Of the checkpoint.
        member: Name of the student.
        value: Its description in the run's config.
        run: That config.
    """
    text = (meta.get(STUDENTS) or {}).get(member)
    if text is None:
        return student_config(Member.parse(member, 'student', value), run)
    return read_config_text(text, f'the config of {member!r} in the checkpoint')


def student_meta(meta: dict[str, Any], member: str) -> dict[str, Any]:
    """Return the plain part of a checkpoint's meta: what ``init_model`` reads, and its origin."""
    kept: dict[str, Any] = {
        key: meta[key] for key in ('dataset_meta', 'iter', 'epoch', 'seed', 'time') if key in meta
    }
    return {**kept, 'mmkd_version': __version__, 'mmkd_member': member}


def export_student(
    checkpoint: str | os.PathLike, out: str | os.PathLike, member: str = 'student'
) -> tuple[Path, Path]:
    """Write a plain student out of a checkpoint: ``out`` (weights) and ``config.py`` beside it.

    Args:
        checkpoint: A checkpoint of a Distiller run.
        out: Path of the weights to write (``….pth``), or a folder: for ``<member>.pth``, and of a
            run of several students for ``<member>/<member>.pth``, since each has a config of its
            own.
        member: Name of the student.

    Returns:
        The paths of the weights and of the config.

    Raises:
        KeyError: No such student.
        ValueError: The checkpoint does not hold the config of its run; another student's config, or
            a run, lies there.
    """
    loaded = load_checkpoint_file(str(checkpoint))
    state = student_state_dict(state_dict_in(loaded, str(checkpoint)), member)
    meta = loaded.get('meta')
    if not isinstance(meta, dict) or not isinstance(meta.get('cfg'), str):
        raise ValueError(
            f"{checkpoint} does not hold the config of its run (meta.cfg), so the student's config "
            'cannot be written. Mend: use a checkpoint that the Runner saved'
        )
    run = read_config_text(meta['cfg'], f'the config in {checkpoint}')
    if not isinstance(run.get('model'), dict) or not (
        run.model.get('student') or run.model.get('students')
    ):
        raise ValueError(
            f'the config in {checkpoint} is not of a Distiller: its model is '
            f'{run.get("model")!r:.60}. Mend: a checkpoint that a run of a Distiller saved'
        )
    several = run.model.get('students') or {}
    value = several.get(member) or run.model.student
    folder = Path(out) / member if len(several) > 1 else Path(out)
    weights = Path(out) if str(out).endswith('.pth') else folder / f'{member}.pth'
    if (weights.parent / 'last_checkpoint').exists():
        raise ValueError(
            f'{weights.parent} holds the checkpoints of a run, which an export would overwrite. '
            'Mend: another folder'
        )
    _check_weights(weights)
    config = config_in(meta, member, value, run)
    text = readable_text(config)
    _check_config(weights, text)
    return weights, write_student(state, student_meta(meta, member), weights, text)


def _check_weights(weights: Path) -> None:
    """Refuse to write over what is no student: a run could not go on without its optimizer."""
    if not weights.is_file():
        return
    try:
        there = load_checkpoint_file(str(weights))
    except Exception:  # what cannot be read can be no run's either
        return
    if isinstance(there, dict) and {'optimizer', 'message_hub'} & there.keys():
        raise ValueError(
            f'{weights} is the checkpoint of a run, which an export would overwrite. Mend: another '
            'name or folder'
        )


def _check_config(weights: Path, text: str) -> None:
    """Refuse to write over a ``config.py`` that is not of these weights."""
    there = weights.parent / 'config.py'
    if not there.exists() or there.read_text(encoding='utf-8') == text:
        return
    if any(other != weights for other in weights.parent.glob('*.pth')):
        raise ValueError(
            f'{there} is the config of other weights in {weights.parent}, which would no longer '
            'load. Mend: another folder'
        )
    if not weights.exists():
        raise ValueError(
            f'{there} is not of an earlier export, since {weights.name} does not lie beside it, '
            'and would be written over. Mend: another folder'
        )
