"""Every recipe builds and trains two iterations, on generated images and under untrained teachers.

Eight of them, one a kind, and an ensemble are in the quick tier.
"""

import ast
import math
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.images import write, write_boxes
from helpers.runs import need_mmdet
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import MODELS, PARAM_SCHEDULERS
from mmengine.runner import Runner

from mmkd.apis.launch import build_runner, load_config
from mmkd.apis.length import follow_length
from mmkd.apis.prepare import is_distiller, prepare_config
from mmkd.datasets import CIFAR10
from mmkd.engine.schedules import build_schedule
from mmkd.utils.config_file import read_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
RECIPES = sorted(path for path in CONFIGS.rglob('*.py') if not {'_base_', 'demo'} & set(path.parts))
CAMVID = [path for path in RECIPES if '_camvid' in path.stem]
BCCD = [path for path in RECIPES if '_bccd-' in path.stem]
CITYSCAPES = [path for path in RECIPES if '_cityscapes-' in path.stem]
QUICK = {
    'structured_kd_effnetlite2-pspnet-r18-half_camvid',
    'pa-ho_effnetlite2-resnet18-half_nyuv2-160x120',
    'pi-pa-ho_fcos-effnetlite2-r18-half_bccd-320x240',
    'quest_resnet20-resnet8_cifar10',
    'end2_resnet14x4_cifar10-2500',
    'soft_unet_digit-scenes',
    'afd_unetx2_digit-scenes',
    'sid_minilm-minilm3_sst2',
    'ensemble_resnet14x4_cifar10-2500',
}
SIZE = (64, 96)
METRES = 4.0
DEPTH = {
    'depth_dir': np.uint8(METRES * 25.5),
    'annotations': np.uint16(METRES * 1000),
}  # the units of the files
IMAGES_PER_CLASS = 3  # one of them validates


def params(paths: list[Path]) -> list:
    """Return recipes as parameters of a test, all but one a kind for the full tier."""
    return [
        pytest.param(path, id=path.stem, marks=[] if path.stem in QUICK else pytest.mark.slow)
        for path in paths
    ]


def bases_of(path: Path) -> list[Path]:
    """Return the files that a config names in its _base_."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == '_base_':
            found = ast.literal_eval(node.value)
            return [
                (path.parent / base).resolve()
                for base in ([found] if isinstance(found, str) else found)
            ]
    return []


def pair_of(path: Path) -> Path | None:
    """Return the nearest file of pairs/ that a config inherits."""
    for base in bases_of(path):
        found = (
            base
            if base.parent.name == 'pairs'
            else pair_of(base)
            if '_base_' not in base.parts
            else None
        )
        if found:
            return found
    return None


@pytest.fixture(scope='session')
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Write a few images a split in the layout of each data set."""
    generator = np.random.default_rng(0)
    layouts = {
        'mmkd.CamVid': ('img_dir/{0}/{1}.jpg', 'ann_dir/{0}/{1}.png', 11),
        'CityscapesDataset': (
            'leftImg8bit/{0}/{1}_leftImg8bit.png',
            'gtFine/{0}/{1}_gtFine_labelTrainIds.png',
            19,
        ),
        'NYUDataset': ('images/{0}/{1}.jpg', 'annotations/{0}/{1}.png', 11),
    }
    made = {name: tmp_path_factory.mktemp(name) for name in (*layouts, 'mmkd.CIFAR10')}
    for name, (image, label, classes) in layouts.items():
        for split in ('train', 'val', 'test'):
            for frame in ('a1', 'b2'):  # mmseg's NYUDataset looks for a digit
                blocks = generator.integers(0, classes, (SIZE[0] // 8, SIZE[1] // 8), np.uint8)
                labels = blocks.repeat(8, 0).repeat(8, 1)
                labels[-8:] = 255
                write(made[name] / image.format(split, frame), np.stack([labels * 10] * 3, -1))
                if name != 'NYUDataset':
                    write(made[name] / label.format(split, frame), labels)
                    continue
                for folder, depth in DEPTH.items():
                    write(made[name] / f'{folder}/{split}/{frame}.png', np.full(SIZE, depth))
    write_boxes(Path(made.setdefault('CocoDataset', tmp_path_factory.mktemp('CocoDataset'))))
    (made['NYUDataset'] / 'img_dir').symlink_to(
        made['NYUDataset'] / 'images'
    )  # mmseg's own layout, and the small one
    hundred = Config.fromfile(CONFIGS / '_base_/datasets/cifar100.py').metainfo.classes
    for part, name, number in product(
        ('train', 'test'), (*CIFAR10.METAINFO['classes'], *hundred), range(IMAGES_PER_CLASS)
    ):
        write(
            made['mmkd.CIFAR10'] / f'{part}/{name}/{number}.png',
            generator.integers(0, 256, (32, 32, 3), np.uint8),
        )
    return {name: str(path) for name, path in made.items()}


def shrink(cfg: Config, roots: dict[str, str]) -> Config:
    """Two iterations at batch 2 on the written images, no download; all else as in the recipe."""
    if cfg.train_dataloader.dataset.type == 'mmkd.TextFiles':
        shrink_texts(cfg, roots)
    loaders = (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
    for loader in filter(None, loaders):  # a backbone without a head validates nothing
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        for dataset in leaves(loader.dataset):
            shrink_dataset(dataset, roots)
        for part in (loader.dataset, *map(loader.dataset.get, ('dataset', 'unlabelled'))):
            if 'indices' in (part or {}):
                there = [index for index in part.indices if index < 2]
                part.indices = there or [0, 1]  # of a part that is held out
    if 'labelled' in cfg.train_dataloader.sampler:
        cfg.train_dataloader.batch_size = 4  # each kind passes alone: norms need two images
        cfg.train_dataloader.sampler.update(labelled=2, unlabelled=2)
    for evaluator, split in ((cfg.val_evaluator, 'val'), (cfg.test_evaluator, 'test')):
        if 'CocoMetric' in str(evaluator):
            evaluator.ann_file = f'{roots["CocoDataset"]}/annotations_coco/{split}.json'
    cfg.train_cfg.max_iters = 2
    scenes = leaves(cfg.train_dataloader.dataset)[0].type == 'mmkd.DigitScenes'  # of one size
    if is_distiller(cfg):
        shrink_pair(cfg, scenes)
    else:
        shrink_alone(cfg, scenes)
    return cfg


def leaves(dataset: Config) -> list[Config]:
    """Return the data sets inside a data set."""
    inner = [dataset[key] for key in ('dataset', 'unlabelled') if key in dataset]
    inner += dataset.get('datasets', [])
    return [leaf for one in inner for leaf in leaves(one)] if inner else [dataset]


def shrink_dataset(dataset: Config, roots: dict[str, str]) -> None:
    """Read the written images, of one small size."""
    if dataset.type == 'mmkd.DigitScenes':
        dataset.num_scenes = 4
    else:
        dataset.data_root = roots.get(dataset.type, dataset.get('data_root'))
    if dataset.type == 'mmkd.CIFAR10':
        dataset.val_per_class = 1
        if 'images_per_class' in dataset:
            dataset.images_per_class = 2
    for step in dataset.get('pipeline', []):
        if 'Resize' in step.type and dataset.type == 'CocoDataset':
            step.scale = (256, 192)  # the coarsest level has a stride of 128
        elif 'Resize' in step.type:
            step.scale = SIZE[::-1]
            if 'ratio_range' in step:
                step.ratio_range = (1, 1)
        if step.type == 'RandomCrop':
            step.crop_size = SIZE


def shrink_alone(cfg: Config, scenes: bool) -> None:
    """No weights of elsewhere for a plain model, a student, or the members of an ensemble."""
    cfg.pop('load_from', None)
    if cfg.model.get('backbone', {}).get('pretrained'):
        cfg.model.backbone.pretrained = False
    if 'size' in cfg.model.get('data_preprocessor', {}) and not scenes:
        cfg.model.data_preprocessor.size = SIZE
    for member in cfg.model.get('members', []):
        assert member.pop('checkpoint'), 'a recipe names its members'
        member.allow_untrained = True


def shrink_pair(cfg: Config, scenes: bool) -> None:
    """No weights of elsewhere for students and teachers, and few words."""
    for student in students_of(cfg):
        student.pop('checkpoint', None)
        if 'cfg' in student:
            former = 'segformer' in student.cfg
            weights = 'model.backbone.init_cfg' if former else 'model.pretrained'
            own = {} if scenes else {weights: None, 'model.data_preprocessor.size': SIZE}
            student.cfg_options = {**student.get('cfg_options', {}), **own}
        else:
            shrink_alone(student, scenes)
    for teacher in teachers_of(cfg):
        if 'checkpoint' not in teacher:
            assert teacher.model.backbone.pretrained, 'or it brings its own weights'
            teacher.model.backbone.pretrained = False
        assert teacher.get('checkpoint', True), 'a recipe names its teacher'
        teacher.update(checkpoint=None, allow_untrained=True)
    for objective in cfg.model.get('objectives', {}).values():
        if objective.loss.type == 'AssignmentKLLoss':
            objective.loss.num_words = 8  # of 2 images


def shrink_texts(cfg: Config, roots: dict[str, str]) -> None:
    """A tiny BERT in place of every other, of as many layers; sentences of ten words."""
    texts = pytest.importorskip('texts')
    folder = Path(roots['mmkd.CIFAR10']) / 'texts'
    root, tokenizer = texts.write_sentences(folder), texts.write_tokenizer(folder / 'tokenizer')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.update(data_root=root, ann_file='train.tsv', limit=None, text=['sentence'])
        loader.dataset.pipeline[0].tokenizer = tokenizer
    tiny = dict(config=texts.bert(12), pretrained=None)
    if not is_distiller(cfg):
        cfg.model.update(tiny)
        return
    cfg.model.student.model.update(tiny)
    teacher = Config.fromfile(cfg.model.teacher.cfg)
    teacher.model.update(tiny)
    cfg.model.teacher.cfg = teacher


def students_of(cfg: Config) -> list:
    """Return the configs of one student or of several."""
    return [cfg.model.student] if cfg.model.get('student') else list(cfg.model.students.values())


def teachers_of(cfg: Config) -> list:
    """Return the configs of one teacher or of several."""
    return (
        [cfg.model.teacher]
        if cfg.model.get('teacher')
        else list(cfg.model.get('teachers', {}).values())
    )


def task_losses(cfg: Config) -> dict[str, float]:
    """Return the students' own losses, and what guessing gives where it is known."""
    if is_distiller(cfg) and 'FeatureModel' in str(cfg.model.get('student')):
        return {}  # it has no head
    own = _losses_of_one(cfg)
    peers = cfg.model.get('students', {})
    return {f'{peer}.{key}': value for peer in peers for key, value in own.items()} or own


def _losses_of_one(cfg: Config) -> dict[str, float]:
    data = leaves(cfg.train_dataloader.dataset)[0]
    kind = data.type
    if 'Accuracy' in str(cfg.val_evaluator):
        known = data.get('metainfo') or CIFAR10.METAINFO
        return {'loss_cls': math.log(len(known['classes']))}
    if kind == 'mmkd.DigitScenes':
        return {'decode.loss_ce': math.log(11)}
    if kind == 'CocoDataset':  # an even guess in or out of a box
        return {'loss_centerness': math.log(2), 'loss_cls': math.nan, 'loss_bbox': math.nan}
    if kind == 'NYUDataset':  # log-centred bins under a scale-invariant loss
        head = (cfg.model.student.model if is_distiller(cfg) else cfg.model).decode_head
        return {
            'decode.loss_silog': abs(math.log(METRES / math.sqrt(head.min_depth * head.max_depth)))
            / math.sqrt(2)
        }
    classes = 19 if kind == 'CityscapesDataset' else 11
    # mmseg's mean has ignored pixels too, but where classes have weights
    counts = 1.0 if 'class_weight' in str(cfg.model) else 7 / 8
    return {'decode.loss_ce': counts * math.log(classes), 'aux.loss_ce': math.nan}


@pytest.mark.parametrize(
    'path', params([path for path in RECIPES if not path.stem.startswith('ensemble_')])
)
def test_two_iterations(
    path: Path, roots: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # mmengine pretty-prints the config five times a checkpoint: most of this test's time
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (text, True))
    if path in BCCD:
        need_mmdet()
    cfg = load_config(str(path), work_dir=str(tmp_path))
    own = task_losses(cfg)
    runner = build_runner(prepare_config(shrink(cfg, roots)))
    distils = is_distiller(cfg)
    teachers = [model for _, model in runner.model.teachers.items()] if distils else []
    before = [{k: v.clone() for k, v in teacher.state_dict().items()} for teacher in teachers]
    runner.train()

    assert runner.iter == 2
    scalars = MessageHub.get_current_instance().log_scalars
    history = {key.removeprefix('train/'): buffer.data[0] for key, buffer in scalars.items()}
    levels = any('levels' in hook for hook in cfg.custom_hooks)  # the first has no labels
    weight = 0.0 if levels else cfg.model.get('task_weight', 1.0)
    first, guess = next(iter(own.items()), ('loss', math.nan))
    # the classifier of the scenes begins with larger weights, a VGG of batch 2 with wild norms
    loose = (
        leaves(cfg.train_dataloader.dataset)[0].type in ('mmkd.DigitScenes', 'NYUDataset')
        or 'vgg16' in path.stem
    )
    wide = 'segformer_digit-scenes' in path.stem  # four levels of features under those weights
    tolerance = 1.0 if wide else 0.4 if loose else 0.2
    if own:
        assert history[first][0] == pytest.approx(weight * guess, abs=tolerance), (
            'an untrained student guesses'
        )
    objectives = list(cfg.model.get('objectives', {}))
    parts = [f'{name}.loss' for name in objectives] + [
        key for key in own if key in history
    ]  # SegFormer has no aux
    assert history['loss'] == pytest.approx(sum(history[key] for key in parts), rel=1e-4)
    critics = [
        f'{name}.critic_loss'
        for name, objective in cfg.model.get('objectives', {}).items()
        if objective.loss.type == 'AdversarialLoss'
    ]
    assert [key for key in history if key.endswith('.critic_loss')] == critics
    students = dict(runner.model.students.items()) if distils else dict(student=runner.model)
    for name, model in students.items():
        wrapper = optimizer_of(name, runner)
        norms = [
            module for module in model.train().modules() if 'BatchNorm' in type(module).__name__
        ]
        assert all(norm.training for norm in norms), 'norms train'
        # a level without boxes gives its scale no gradient
        moments = [
            wrapper.optimizer.state[p]
            for key, p in model.named_parameters()
            if 'bbox_head.scales' not in key
        ]
        learns = [
            bool((m.get('momentum_buffer', m.get('exp_avg'))).abs().sum() > 0) for m in moments
        ]
        assert any(learns) if levels else all(learns), 'all of it learns'
    if distils:
        for teacher, old in zip(teachers, before, strict=True):
            assert all(torch.equal(value, old[key]) for key, value in teacher.state_dict().items())
        for name, model in students.items():
            folder = tmp_path / 'student' / ('' if len(students) == 1 else name)
            plain = Config.fromfile(folder / 'config.py')
            alone = MODELS.build(dict(plain.model, _scope_=plain.default_scope))
            alone.load_state_dict(
                torch.load(folder / 'iter_2.pth', map_location='cpu')['state_dict']
            )
            assert all(
                torch.equal(a, b)
                for a, b in zip(alone.parameters(), model.parameters(), strict=True)
            )


def optimizer_of(student: str, runner: Runner) -> OptimWrapper:
    """Return the optimizer that steps on a student's own losses."""
    if not isinstance(runner.optim_wrapper, OptimWrapperDict):
        return runner.optim_wrapper
    return runner.optim_wrapper[next(p.optimizer for p in runner.model.phases if student in p.task)]


@pytest.mark.parametrize(
    'path', params([path for path in RECIPES if path.stem.startswith('ensemble_')])
)
def test_an_ensemble_is_tested(path: Path, roots: dict[str, str], tmp_path: Path) -> None:
    cfg = shrink(load_config(str(path), work_dir=str(tmp_path)), roots)
    for dataset in cfg.test_dataloader.dataset.get('datasets', []):
        if 'dataset' in dataset:
            dataset.dataset.num_scenes = 4
    metrics = build_runner(prepare_config(cfg)).test()
    # members that were never trained guess, each in its own way
    assert metrics['calibration/NLL'] == pytest.approx(math.log(task_classes(path)), abs=0.5)
    assert 0 <= metrics['calibration/error'] <= 100


def task_classes(path: Path) -> int:
    """Return the classes of a recipe by its data set."""
    return 11 if path in CAMVID else 10


OTHERWISE = {  # recipes of another length, data or student than their pair's, as they begin
    'assistant_unet_digit-scenes',
    'features_effnetlite2-pspnet-r18-half_camvid-240x180',
    'labels_features-pspnet-r18-half_camvid-240x180',
    'kd_resnet14_cifar10-2500',
    'end2-proxy-long_resnet14x4_cifar10-2500',
    'fickle_wrn-40-2-wrn-16-2_cifar10',
    'sid_bert-base-bert6_sst2',
    'sid_minilm-minilm3_rte',
    'kd_bert-base-bert6_sst2',
    'kd-unlabelled_unet_digit-scenes',
    'cwd-unlabelled_unet_digit-scenes',
    'kd-unlabelled_unet_digit-scenes-100',
    'cwd-unlabelled_unet_digit-scenes-100',
    'structured_kd-pi-pa-deepest-unlabelled_unet_digit-scenes-100',
    'kd-no-labels_unet_digit-scenes',
    'kd-no-labels_effnetlite2-effnetlite0_camvid-240x180',
    'funmatch_unet_digit-scenes',
    'funmatch_effnetlite2-effnetlite0_camvid-240x180',
    'kd-quarter_effnetlite2-effnetlite0_camvid-240x180',
    'kd-unlabelled_effnetlite2-effnetlite0_camvid-240x180',
}
ALONE = ('baseline', 'teacher_', 'member_', 'longer_', 'ensemble_')
ROWS = [
    path
    for path in RECIPES
    if pair_of(path) and path.stem not in OTHERWISE and not path.stem.startswith(ALONE)
]


def student_of(cfg: Config) -> dict:
    """Return the model of a row's student, of its first peer, or of the student alone."""
    if not is_distiller(cfg):
        return cfg.model.to_dict()
    first = students_of(cfg)[0]
    return (read_config(first.cfg).model if 'cfg' in first else first.model).to_dict()


def test_the_control_of_an_ensemble_goes_on_as_long_as_its_students() -> None:
    """One network from the same weights, at one rate: with labels, on the images that have some."""
    member, longer, taught = (
        Config.fromfile(CONFIGS / f'{name}_cifar10-2500.py')
        for name in (
            'pairs/member_resnet14',
            'pairs/longer_resnet14',
            'ensemble_distribution/end_resnet14x4',
        )
    )
    assert student_of(member) == student_of(longer) == student_of(taught)
    assert longer.load_from == taught.model.student.checkpoint
    for key in ('param_scheduler', 'train_cfg', 'optim_wrapper'):
        assert longer[key] == taught[key], key
    assert longer.train_dataloader == member.train_dataloader
    images = [cfg.train_dataloader.dataset.images_per_class for cfg in (longer, taught)]
    assert images == [250, None], 'the labels of the others are not looked at'
    assert taught.model.task_weight == 0


@pytest.mark.parametrize('path', params(ROWS))
def test_rows_have_equal_budgets(path: Path) -> None:
    """Student, data, schedule and seed are the pair's: rows differ in objectives and noise."""
    pair = pair_of(path)
    if path.stem == 'afd_unet-segformer_digit-scenes':  # it inherits one peer and names the other
        pair = CONFIGS / 'pairs/baseline_unet_digit-scenes.py'
    if path.stem.endswith('_digit-scenes-100'):  # it inherits the row of all scenes
        pair = CONFIGS / 'pairs/baseline_unet_digit-scenes-100.py'
    baseline, cfg = (follow_length(Config.fromfile(file)) for file in (pair, path))
    assert student_of(cfg) == student_of(baseline)
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg', 'randomness'):
        assert cfg[key] == baseline[key], key
    name = next((name for name in ('student', 'cnn') if name in cfg.optim_wrapper), None)
    own, other = (
        c.optim_wrapper.get(name, c.optim_wrapper.get('student', c.optim_wrapper))
        for c in (cfg, baseline)
    )
    assert own.optimizer == other.optimizer
    schedule = cfg.param_scheduler
    assert (
        schedule if isinstance(schedule, list) else schedule.student
    ) == baseline.param_scheduler
    assert all(
        s.get('end', cfg.train_cfg.max_iters) == cfg.train_cfg.max_iters
        for s in baseline.param_scheduler[-1:]
    )


BUDGETS = {'_camvid': (1300, 16), '_camvid-240x180-600': (600, 8)}


@pytest.mark.parametrize(
    ('path', 'budget'),
    [
        pytest.param(path, budget, id=path.stem)
        for path, (end, budget) in product(CAMVID, BUDGETS.items())
        if path.stem.endswith(end) and not path.stem.startswith('teacher_')
    ],
)
def test_weights_of_structured_kd_on_camvid(path: Path, budget: tuple[int, int]) -> None:
    cfg = Config.fromfile(path)
    assert (cfg.train_cfg.max_iters, cfg.train_dataloader.batch_size) == budget
    weights = {
        name: objective.weight for name, objective in cfg.model.get('objectives', {}).items()
    }
    name = path.stem.split('_effnetlite2')[0]
    assert weights == {
        'structured_kd-pi': {'pixel': 10},
        'structured_kd-pi-pa': {'pixel': 10, 'pair': 10},
        'structured_kd': {'pixel': 10, 'pair': 10, 'holistic': 0.1},
    }.get(name, {})


def test_the_papers_setting_of_quest() -> None:
    cfg = Config.fromfile(CONFIGS / 'quest/quest_wrn-40-2-wrn-16-2_cifar100.py')
    loss = cfg.model.objectives.quest.loss
    assert (loss.num_words, loss.tau, loss.gamma) == (4096, 0.2, 3.0)
    assert cfg.train_dataloader.batch_size == 64
    assert cfg.train_cfg.max_iters == 240 * 781  # 781 full batches of 64 are a pass over 50,000
    assert [step / 781 for step in cfg.param_scheduler[0].milestones] == [150, 180, 210]
    sgd = cfg.optim_wrapper.student.optimizer
    assert (sgd.lr, sgd.momentum, sgd.nesterov, sgd.weight_decay) == (0.05, 0.9, True, 5e-4)
    student, teacher = (
        sum(p.numel() for p in MODELS.build(dict(model, _scope_='mmkd')).parameters())
        for model in (cfg.model.student.model, Config.fromfile(cfg.model.teacher.cfg).model)
    )
    assert (student, teacher) == (703_284, 2_255_156)


def test_the_papers_setting_of_ensemble_distribution() -> None:
    cfg = follow_length(Config.fromfile(CONFIGS / 'ensemble_distribution/end2_vgg16x5_cifar10.py'))
    anneal = build_schedule(
        {k: v for k, v in cfg.default_hooks.schedule.schedules[0].items() if k != 'target'}
    )
    passes = 50_000 / 128
    assert [anneal(round(share * passes)) for share in (0, 30, 60, 90)] == pytest.approx(
        [10, 10, 1, 1], abs=0.02
    )
    rates, optimizer = (
        [],
        torch.optim.Adam([torch.zeros(1)], lr=cfg.optim_wrapper.student.optimizer.lr),
    )
    schedulers = [PARAM_SCHEDULERS.build(dict(s, optimizer=optimizer)) for s in cfg.param_scheduler]
    for step in range(cfg.train_cfg.max_iters):
        if step in (0, 11730, 23460, cfg.train_cfg.max_iters - 1):
            rates.append(optimizer.param_groups[0]['lr'])
        for scheduler in schedulers:
            scheduler.step()
    assert rates == pytest.approx([1e-3, 1e-2, 1e-3, 1e-6], rel=0.1)


@pytest.mark.parametrize(
    ('name', 'passes', 'noise'),
    [
        ('soft_wrn-40-2-wrn-16-2', 200, 'GaussianInput'),
        ('messy_wrn-40-2-wrn-16-2', 200, 'LabelFlip'),
        ('fickle_wrn-40-2-wrn-16-2', 350, 'TeacherDropout'),
    ],
)
def test_the_papers_setting_of_noisy_collaboration(name: str, passes: int, noise: str) -> None:
    cfg = Config.fromfile(CONFIGS / f'noisy_collaboration/{name}_cifar10.py')
    kd = cfg.model.objectives.kd
    assert (cfg.model.task_weight, kd.weight, kd.loss.tau) == (0.1, 0.9, 4.0), (
        '1 − alpha, alpha, tau'
    )
    assert [own.type for own in cfg.model.noise] == [noise]
    assert (
        cfg.train_cfg.max_iters
        == passes * 391
        == passes * math.ceil(50_000 / cfg.train_dataloader.batch_size)
    )
    teacher = Config.fromfile(cfg.model.teacher.cfg).model
    assert teacher.backbone.get('dropout', 0.0) == (0.4 if noise == 'TeacherDropout' else 0.0)
    student, teacher = (
        sum(p.numel() for p in MODELS.build(dict(model, _scope_='mmkd')).parameters())
        for model in (cfg.model.student.model, teacher)
    )
    assert (student, teacher) == (703_284 - 90 * 129, 2_255_156 - 90 * 129), (
        'ten classes in place of a hundred'
    )


def test_the_papers_pair_of_ksanc() -> None:
    """The maps are those of the paper's figure: 64, 128, 256 channels above 16, 32, 64."""
    cfg = Config.fromfile(CONFIGS / 'ksanc/ksanc_resnet164-resnet20_cifar10.py')
    models = [
        MODELS.build(dict(model, _scope_='mmkd')).eval()
        for model in (Config.fromfile(cfg.model.teacher.cfg).model, cfg.model.student.model)
    ]
    with torch.no_grad():
        shapes = [
            [tuple(x.shape[1:]) for x in model.backbone(torch.zeros(1, 3, 32, 32))]
            for model in models
        ]
    assert shapes == [
        [(64, 32, 32), (128, 16, 16), (256, 8, 8)],
        [(16, 32, 32), (32, 16, 16), (64, 8, 8)],
    ]
    convolutions = [
        sum(
            isinstance(m, torch.nn.Conv2d)
            and m.kernel_size != (1, 1)
            or isinstance(m, torch.nn.Linear)
            for m in model.modules()
        )
        for model in models
    ]
    assert convolutions == [1 + 54 + 1, 20], 'a third of the 162 layers in bottlenecks are 3×3'
    assert cfg.model.task_weight == 0, 'the equation has no label loss of its own'


def test_the_papers_setting_of_afd() -> None:
    """Two ResNet-32; SGD on the logits, Adam of a smaller rate on the maps, a schedule each."""
    cfg = Config.fromfile(CONFIGS / 'afd/afd_resnet32x2_cifar100.py')
    assert [s.model.backbone.depth for s in cfg.model.students.values()] == [32, 32]
    assert [cfg.model.objectives[f'logit{k}'].loss.tau for k in range(2)] == [3.0, 3.0]
    assert {
        name: wrapper.optimizer.lr
        for name, wrapper in cfg.optim_wrapper.items()
        if name != 'constructor'
    } == {'student': 0.1, 'feature': 2e-5, 'critic': 2e-5}
    passes = 50_000 / cfg.train_dataloader.batch_size
    steps = {
        name: [round(at / passes) for at in schedule[0].milestones]
        for name, schedule in cfg.param_scheduler.items()
    }
    assert steps == {'student': [150, 225], 'feature': [75, 150], 'critic': [75, 150]}
    assert cfg.train_cfg.max_iters == 300 * math.ceil(passes)


@pytest.mark.parametrize('k', [2, 3])
def test_peers_of_afd_stand_in_a_cycle(k: int) -> None:
    cfg = Config.fromfile(CONFIGS / f'afd/afd_resnet8x{k}_cifar10.py')
    reads = {name: (o.reads.student, o.reads.teacher) for name, o in cfg.model.objectives.items()}
    assert reads == {
        f'{kind}{i}': (f'peer{i}.{tap}', f'peer{(i - 1) % k}.{tap}')
        for i in range(k)
        for kind, tap in (('logit', 'logits'), ('map', 'feat'))
    }


@pytest.mark.parametrize(
    ('stem', 'iterations', 'crop'),
    [('512x512-40k', 40000, (512, 512)), ('512x1024-80k', 80000, (512, 1024))],
)
def test_the_papers_pair(stem: str, iterations: int, crop: tuple[int, int]) -> None:
    cfg = follow_length(
        Config.fromfile(
            CONFIGS / f'structured_kd/structured_kd_pspnet_r101-r18_cityscapes-{stem}.py'
        )
    )
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[0].end == iterations
    assert [
        s.crop_size for s in cfg.train_dataloader.dataset.pipeline if s.type == 'RandomCrop'
    ] == [crop]
    student = read_config(cfg.model.student.cfg)
    student.merge_from_dict(cfg.model.student.get('cfg_options', {}))
    assert tuple(student.model.data_preprocessor.size) == crop
    sgd, adam = cfg.optim_wrapper.student.optimizer, cfg.optim_wrapper.critic.optimizer
    assert (sgd.lr, sgd.momentum, sgd.weight_decay, adam.lr) == (0.01, 0.9, 5e-4, 4e-4)
    assert {n: o.weight for n, o in cfg.model.objectives.items()} == {
        'pixel': 10,
        'pair': 10,
        'holistic': 0.1,
    }
    # the published weights, by mmseg's own index
    import mmseg

    index = (Path(mmseg.__file__).parent / '.mim/configs/pspnet/metafile.yaml').read_text()
    entry = index.split('- Name: pspnet_r101-d8_4xb2-80k_cityscapes-512x1024\n')[1].split(
        '- Name:'
    )[0]
    assert f'Weights: {cfg.model.teacher.checkpoint}\n' in entry


@pytest.mark.parametrize('path', params(RECIPES))
def test_a_length_is_said_once(path: Path) -> None:
    """What decays goes on to the end of the run, and no recipe writes that end a second time."""
    cfg = Config.fromfile(path)
    length = cfg.train_cfg.max_iters
    assert cfg.train_cfg.get('val_interval') != length
    assert cfg.default_hooks.checkpoint.interval != length
    written, followed = (
        schedulers_of(found) for found in (cfg, follow_length(Config.fromfile(path)))
    )
    assert all(s.get('end') != length and s.get('T_max') != length for s in written)
    falls = [
        s for s in followed if s.get('end') and s.type != 'LinearLR' or s.get('end_factor') == 0
    ]
    assert all(s.end == length for s in falls), (
        'one that ends early in 0 would train nothing for the rest'
    )
    assert {s.type for s in written if 'end' not in s and s.type != 'MultiStepLR'} <= {
        s.type for s in falls
    } | {'LinearLR'}


def schedulers_of(cfg: Config) -> list:
    """Return the schedules of all optimizers."""
    found = cfg.get('param_scheduler') or []
    return [s for own in found.values() for s in own] if isinstance(found, dict) else list(found)


@pytest.mark.parametrize('path', RECIPES, ids=[path.stem for path in RECIPES])
def test_recipes_are_short_and_portable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    assert not re.search(r"'/|\.\./\.\./|[A-Z]:\\\\", text), 'no absolute path'
    assert text.startswith('# '), 'one line says what it is'


@pytest.mark.parametrize('path', RECIPES, ids=[path.stem for path in RECIPES])
def test_no_recipe_reads_another_papers_folder(path: Path) -> None:
    """It inherits its pair, the bases, or a recipe beside it."""
    folders = {base.relative_to(CONFIGS).parts[0] for base in bases_of(path)}
    folders |= set(re.findall(r'\.\./([\w-]+)/', path.read_text()))
    assert folders <= {'_base_', 'pairs', path.parent.name}


def test_no_two_recipes_share_a_name() -> None:
    """A recipe's name is that of its work dir, and of its entry in metafile.yml."""
    recipes = [path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts]
    stems = [path.stem for path in recipes if path.parent.name != 'demo']
    assert not {stem for stem in stems if stems.count(stem) > 1}


def test_the_old_names_of_bases_still_serve() -> None:
    old = {
        'cityscapes_512x1024': 'datasets',
        'schedule_40k': 'schedules',
        'schedule_80k': 'schedules',
    }
    for name, room in old.items():
        heir, base = (
            Config.fromfile(CONFIGS / f'_base_/{path}.py') for path in (name, f'{room}/{name}')
        )
        assert heir.to_dict() == base.to_dict()
