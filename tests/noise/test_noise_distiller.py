"""Noises in a Distiller: who sees them, who does not, exact resume, the teacher bit-identical,
refusals when built.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.runs import model_of, run_config, train
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmkd.noise import GaussianInput, LabelFlip, TargetNoise, TeacherDropout
from mmkd.noise.base import Host, Noises
from mmkd.structures.batch import Batch

LOGITS = dict(logits='decode_head.conv_seg')
PIXEL = dict(pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits'))
ALL = [
    dict(type='GaussianInput', std=0.1),
    dict(type='LabelFlip', rate=0.2),
    dict(type='TeacherDropout'),
    dict(type='TargetNoise', std=0.1),
]


def noisy(noise: list, **overrides: Any) -> Any:
    return tiny.build(tiny.distiller(noise=noise, taps=LOGITS, objectives=PIXEL) | overrides)


def spy(model: nn.Module) -> list[dict]:
    """Note what a member is called with."""
    calls: list[dict] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(
            dict(inputs=args[0], samples=args[1], mode=kwargs['mode'])
        ),
        with_kwargs=True,
    )
    return calls


def data_of(model: Any, **kwargs: Any) -> dict:
    return model.data_preprocessor(tiny.batch(**kwargs), True)


def labels_of(samples: list) -> Tensor:
    return torch.stack([sample.gt_sem_seg.data[0] for sample in samples])


# ---------------------------------------------------------------------- who sees what


def test_students_see_the_noise_in_both_terms_and_the_teacher_does_not() -> None:
    model = noisy([dict(type='GaussianInput', std=0.1)])
    student, teacher = spy(model.student), spy(model.teacher)
    data = data_of(model)
    record, losses = model.observe(**data)
    assert len(student) == len(teacher) == 1
    assert torch.equal(teacher[0]['inputs'], data['inputs'])
    assert torch.equal(record['batch'].inputs, data['inputs'])
    delta = (student[0]['inputs'] - data['inputs']) * 50 / 255  # tiny's std is 50
    assert abs(delta.std() - 0.1) < 3 * 0.1 / (2 * delta.numel()) ** 0.5
    # both terms come from this one forward: the task loss and the tapped logits are functions of
    # the noisy images
    torch.manual_seed(1)
    seen, own = model.observe(**data)
    x = student[-1]['inputs']
    model.runs['student'].noises = Noises()
    torch.manual_seed(1)
    torch.randn_like(x)  # what the noise drew: the student's dropout comes next
    again, expected = model.observe(x, data['data_samples'])
    assert torch.equal(seen['student']['logits'], again['student']['logits'])
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[key], expected[key]) for key in own)
    assert not torch.equal(
        seen['teacher']['logits'], again['teacher']['logits']
    )  # for it, x is another image


@pytest.mark.parametrize(
    ('preprocessor', 'scale'),
    [
        (
            dict(mean=[1.0, 2.0, 3.0], std=[10.0, 20.0, 40.0], bgr_to_rgb=True),
            [2.55, 1.275, 0.6375],
        ),
        (dict(bgr_to_rgb=True), [25.5, 25.5, 25.5]),
    ],
)
def test_noise_on_normalised_images_is_noise_on_pixels(preprocessor: dict, scale: Any) -> None:
    """x → normalise → noise equals x → noise in [0, 1] → normalise, channel by channel in the
    output order.
    """
    source = ImgDataPreprocessor(**preprocessor)
    noise = GaussianInput(std=0.1)
    noise.bind(Host('student', 'student', nn.Identity(), [], source))
    pixels = torch.rand(2, 3, 32, 32) * 255
    inputs = source(dict(inputs=list(pixels)))['inputs']
    torch.manual_seed(3)
    got = noise.on_batch(Batch(inputs)).inputs
    torch.manual_seed(3)
    delta = 0.1 * torch.randn(2, 3, 32, 32).flip(1)  # drawn for RGB, the pixels are BGR
    expected = source(dict(inputs=list(pixels + 255 * delta)))['inputs']
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()
    assert torch.allclose(
        (got - inputs).std((0, 2, 3)), torch.tensor(scale), rtol=3 / (2 * 2048) ** 0.5
    )


def test_padding_stays_as_it_is() -> None:
    samples = [
        BaseDataElement(metainfo=dict(img_shape=shape)) for shape in ((6, 8), (8, 5), (8, 8))
    ]
    inputs = torch.zeros(3, 3, 8, 8)
    got = GaussianInput(std=0.1).on_batch(Batch(inputs, samples)).inputs
    assert (got[0, :, 6:] == 0).all()
    assert (got[1, :, :, 5:] == 0).all()
    assert [(image != 0).sum().item() for image in got] == [3 * 48, 3 * 40, 3 * 64]


@pytest.mark.parametrize('per', ['pixel', 'region', 'image'])
def test_only_the_task_losses_of_students_see_wrong_labels(per: str) -> None:
    model = noisy([dict(type='LabelFlip', rate=0.4, per=per)])
    student, teacher = spy(model.student), spy(model.teacher)
    data = data_of(model, n=8, ignore=0.1)
    clean = labels_of(data['data_samples']).clone()
    record, losses = model.observe(**data)
    wrong = labels_of(student[0]['samples'])
    assert torch.equal(labels_of(data['data_samples']), clean)
    assert torch.equal(labels_of(teacher[0]['samples']), clean)
    assert torch.equal(record['batch'].labels, clean)
    assert torch.equal(wrong == 255, clean == 255)
    share = (wrong != clean)[clean != 255].double().mean()
    assert abs(share - 0.4) < (0.2 if per == 'image' else 0.03)
    paths = [sample.img_path for sample in data['data_samples']]
    assert [sample.img_path for sample in student[0]['samples']] == paths
    expected = LabelFlip(rate=0.4, per=per, num_classes=11)(clean, paths)
    assert torch.equal(wrong, expected)


def test_fixed_labels_return_in_any_batch_and_fresh_ones_do_not() -> None:
    model = noisy([dict(type='LabelFlip', rate=0.3)])
    seen = spy(model.student)
    data = data_of(model, n=4)
    model.observe(**data)
    model.observe(data['inputs'].flip(0), data['data_samples'][::-1])
    assert torch.equal(labels_of(seen[0]['samples']), labels_of(seen[1]['samples']).flip(0))
    model = noisy([dict(type='LabelFlip', rate=0.3, fresh=True)])
    seen = spy(model.student)
    model.observe(**data)
    model.observe(**data)
    assert not torch.equal(labels_of(seen[0]['samples']), labels_of(seen[1]['samples']))


def test_names_are_the_last_parts_of_paths_or_numbers() -> None:
    def sample(label: int, **metainfo: Any) -> BaseDataElement:
        return BaseDataElement(gt_label=torch.tensor([label]), metainfo=metainfo)

    def flipped(samples: list) -> list[int]:
        batch = LabelFlip(rate=0.9, num_classes=50).on_batch(Batch(torch.zeros(1), samples))
        assert [s.gt_label.tolist() for s in samples] == [[i] for i in range(len(samples))]
        return batch.labels.tolist()

    here = flipped([sample(i, img_path=f'/a/b/train/cat/{i}.png') for i in range(20)])
    assert here == flipped(
        [sample(i, img_path=f'D:\\data\\train\\cat\\{i}.png') for i in range(20)]
    )
    assert here != flipped([sample(i, img_path=f'/a/b/train/dog/{i}.png') for i in range(20)])
    numbered = [
        flipped([sample(i, sample_idx=i + start) for i in range(20)]) for start in (0, 0, 1)
    ]
    assert numbered[0] == numbered[1] != numbered[2]
    with pytest.raises(
        ValueError,
        match=r"neither 'img_path' nor 'sample_idx' in its metainfo \(\['ood'\]\). Mend: "
        r"meta_keys=\('img_path', …\) .* or fresh=True",
    ):
        flipped([sample(0, ood=False)])


def test_a_fickle_teacher_says_another_thing_each_step_and_stays_bit_identical() -> None:
    model = noisy([dict(type='TeacherDropout')])
    plain = noisy([], teacher=dict(model=copy.deepcopy(model.teacher)))
    data = data_of(model)
    first, second = (model.observe(**data)[0]['teacher']['logits'] for _ in range(2))
    assert not torch.equal(first, second)
    assert not any(module.training for module in model.teacher.modules())
    assert torch.equal(
        plain.observe(**data)[0]['teacher']['logits'], plain.observe(**data)[0]['teacher']['logits']
    )
    # Dropout2d before a linear classifier: the mean over masks is what the sleeping teacher says
    sleeping = plain.observe(**data)[0]['teacher']['logits']
    mean = torch.stack(
        [model.runs['teacher'].watch(Batch(**data))['logits'] for _ in range(2)]
    ).mean(0)
    assert torch.equal(mean, sleeping)  # outside the noise it is steady
    draws = torch.stack(
        [model.runs['teacher'].observe(Batch(**data))[0]['logits'] for _ in range(60)]
    )
    error = (draws.mean(0) - sleeping).abs() / (draws.std(0) / 60**0.5 + 1e-6)
    assert error.mean() < 1.2  # 0.8 for a normal one


def test_target_noise_disturbs_the_named_taps_of_the_named_teacher() -> None:
    reads = dict(
        pixel=PIXEL['pixel']
        | dict(on=None, reads=dict(student='student.logits', teacher='one.logits')),
        other=PIXEL['pixel']
        | dict(on=None, reads=dict(student='student.logits', teacher='two.logits')),
    )
    teacher = dict(model=tiny.segmentor(8), allow_untrained=True)
    model = noisy(
        [dict(type='TargetNoise', std=0.1, members=['two'])],
        teacher=None,
        objectives=reads,
        teachers=dict(one=teacher, two=teacher),
    )
    batch = Batch(**data_of(model))
    clean = {name: model.runs[name].watch(batch) for name in ('one', 'two')}
    record = {name: model.runs[name].observe(batch)[0] for name in ('one', 'two')}
    assert torch.equal(record['one']['logits'], clean['one']['logits'])
    ratio = record['two']['logits'] / clean['two']['logits'] - 1
    assert abs(ratio.std() - 0.1) < 0.01


def test_members_choose_the_students() -> None:
    students = dict(a=dict(model=tiny.segmentor(4)), b=dict(model=tiny.segmentor(4)))
    kl = dict(type='PixelWiseKLLoss')
    terms = dict(one=dict(loss=kl, reads=dict(student='a.logits', teacher='b.logits')))
    model = tiny.build(
        dict(
            type='mmkd.Distiller',
            students=students,
            taps=LOGITS,
            objectives=terms,
            noise=[dict(type='GaussianInput', std=0.1, members=['b'])],
        )
    )
    first, second = spy(model.students['a']), spy(model.students['b'])
    data = data_of(model)
    model.observe(**data)
    assert torch.equal(first[0]['inputs'], data['inputs'])
    assert not torch.equal(second[0]['inputs'], data['inputs'])


def test_noise_ends_where_training_ends() -> None:
    model = noisy(ALL[:2]).eval()
    data = data_of(model)
    one, other = (model(data['inputs'], mode='tensor') for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(one, model.student(data['inputs'], None, mode='tensor'))


def test_a_student_on_noise_without_a_teacher() -> None:
    """The control of every noise: the same images and labels, nobody who teaches."""
    model = tiny.build(
        dict(type='mmkd.Distiller', student=dict(model=tiny.segmentor(4)), noise=ALL[:2])
    )
    plain = copy.deepcopy(model.student)
    data = data_of(model)
    seen = spy(model.student)
    torch.manual_seed(1)
    losses = model(**data, mode='loss')
    torch.manual_seed(1)
    torch.randn_like(data['inputs'])
    expected = plain(seen[0]['inputs'], seen[0]['samples'], mode='loss')
    assert losses.keys() == expected.keys()
    assert all(torch.equal(losses[key], expected[key]) for key in expected)
    assert {'loss', 'decode.loss_ce'} <= model.train_step(tiny.batch(), tiny.sgd(model)).keys()


def test_a_compiled_teacher_is_fickle_too() -> None:
    torch._dynamo.reset()
    backbone = dict(
        type='ResNetV1c',
        depth=18,
        base_channels=4,
        stem_channels=4,
        num_stages=1,
        out_indices=(0,),
        strides=(1,),
        dilations=(1,),
        norm_cfg=dict(type='BN'),
    )
    head = dict(
        type='FCNHead',
        in_channels=4,
        in_index=0,
        channels=8,
        num_convs=1,
        concat_input=False,
        num_classes=11,
        norm_cfg=dict(type='BN'),
        dropout_ratio=0.5,
    )
    shallow = MODELS.build(
        tiny.segmentor(4, auxiliary=False, backbone=backbone, decode_head=head)
        | dict(_scope_='mmseg')
    )
    student = dict(model=tiny.segmentor(4, auxiliary=False, backbone=backbone, decode_head=head))
    graphs: list = []
    options = dict(
        model=shallow, compile=dict(backend=lambda graph, _: graphs.append(graph) or graph.forward)
    )
    model = noisy([dict(type='TeacherDropout')], teacher=options, student=student)
    plain = noisy(
        [dict(type='TeacherDropout')], teacher=dict(model=copy.deepcopy(shallow)), student=student
    )
    model.teacher(
        torch.zeros(1, 3, 64, 64), None, mode='tensor'
    )  # as TeacherCheckHook does, awake is another graph
    batch = Batch(**data_of(model))
    said = []
    for distiller in (model, plain, model):
        torch.manual_seed(5)
        said.append([distiller.runs['teacher'].observe(batch)[0]['logits'] for _ in range(2)])
    assert not torch.equal(said[0][0], said[0][1])
    for compiled, expected, again in zip(*said, strict=True):
        assert torch.allclose(compiled, expected, atol=1e-5)
        assert torch.equal(compiled, again)
    assert len(graphs) == 1


# ---------------------------------------------------------------------- training


def test_resume_is_exact_with_every_noise_and_the_teacher_is_untouched(tmp_path: Path) -> None:
    """Four steps equal two, a stop and two more; fresh and fixed labels, all draws on the way."""
    noise = [*ALL, dict(type='LabelFlip', rate=0.1, fresh=True, per='region')]
    teacher = MODELS.build(tiny.segmentor(8, num_classes=3, size=32) | dict(_scope_='mmseg'))
    teacher.init_weights()
    torch.save(teacher.state_dict(), tmp_path / 'teacher.pth')
    model = model_of(
        critic=False,
        noise=noise,
        teacher=dict(
            model=tiny.segmentor(8, num_classes=3, size=32),
            checkpoint=str(tmp_path / 'teacher.pth'),
        ),
    )
    model['objectives'] = dict(pixel=model['objectives']['pixel'])
    whole = train(run_config(tmp_path, copy.deepcopy(model), name='whole'))
    train(run_config(tmp_path, copy.deepcopy(model), max_iters=2, name='parts'))
    rest = train(run_config(tmp_path, copy.deepcopy(model), name='parts'), resume=True)
    expected, got = whole.model.state_dict(), rest.model.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(got[key], value) for key, value in expected.items())
    for key, value in teacher.state_dict().items():
        assert torch.equal(rest.model.teacher.state_dict()[key], value), key
    quiet = train(run_config(tmp_path, model | dict(noise=None), name='quiet'))
    assert not torch.equal(next(quiet.model.parameters()), next(whole.model.parameters()))


# ---------------------------------------------------------------------- refusals when it is built


def dry(dropout: float = 0.0) -> dict:
    return dict(model=tiny.segmentor(8, dropout=dropout), allow_untrained=True)


@pytest.mark.parametrize(
    ('noise', 'overrides', 'error', 'pattern'),
    [
        (
            [dict(type='TeacherDropout')],
            dict(teacher=dry()),
            ValueError,
            'TeacherDropout: teacher has no dropout module, so it cannot be fickle. Mend: a '
            'teacher that was trained with',
        ),
        (
            [dict(type='GausianInput', std=0.1)],
            {},
            KeyError,
            r"noise\[0\]: 'GausianInput' is not registered; did you mean "
            "'GaussianInput'",
        ),
        (
            [ALL[0], dict(type='LabelFlip', rat=0.1)],
            {},
            TypeError,
            r"noise\[1\] LabelFlip got an unknown key 'rat'; did "
            "you mean 'rate'",
        ),
        (
            [dict(type='PixelWiseKLLoss')],
            {},
            TypeError,
            r'noise\[0\] is a PixelWiseKLLoss, which is no noise',
        ),
        (
            dict(type='GaussianInput', std=0.1),
            {},
            TypeError,
            r'noise must be a list of noises, such as \[dict',
        ),
        (
            [dict(type='GaussianInput', std=0.1, members=['studnet'])],
            {},
            KeyError,
            r"noise GaussianInput names no member: 'studnet'; did you mean 'student'\? \(students: "
            r"\['student'\]\)",
        ),
        (
            [dict(type='GaussianInput', std=0.1, members=['teacher'])],
            {},
            ValueError,
            "noise GaussianInput acts on a student, but 'teacher' is a teacher",
        ),
        (
            [dict(type='TargetNoise', std=0.1)],
            dict(teacher=None, objectives=None),
            ValueError,
            'noise TargetNoise acts on a teacher, but there is none',
        ),
        (
            [dict(type='TargetNoise', std=0.1, taps=['logit'])],
            {},
            KeyError,
            r"no objective reads the tap 'logit' of teacher; did you mean 'logits'\? .*Mend: "
            r"taps=\['logits'\]",
        ),
        (
            [dict(type='LabelFlip', rate=0.1, num_classes=19)],
            {},
            ValueError,
            r'LabelFlip\(num_classes=19\), but student has 11 classes. Mend: num_classes=11',
        ),
        (
            [dict(type='LabelFlip', rate=1.5)],
            {},
            ValueError,
            'rate of LabelFlip must be a number from 0 to below 1',
        ),
    ],
)
def test_refused_when_built(
    noise: Any, overrides: dict, error: type[Exception], pattern: str
) -> None:
    with pytest.raises(error, match=pattern):
        noisy(noise, **overrides)


@pytest.mark.parametrize('case', ['auxiliary', 'behind'])
def test_dropout_that_reaches_no_tap_is_refused(case: str) -> None:
    """In the auxiliary head, which a teacher never runs; or behind the only tap that is read."""
    if case == 'auxiliary':
        teacher = tiny.segmentor(8, dropout=0.0)
        teacher['auxiliary_head'].update(dropout_ratio=0.5)
        objectives = dict(pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits'))
    else:
        teacher = tiny.segmentor(8, dropout=0.5)
        objectives = dict(pair=dict(loss=dict(type='PairWiseAffinityLoss', patch=2), on='feat'))
    with pytest.raises(
        ValueError,
        match='TeacherDropout: the dropout of teacher .* reaches none of the taps that '
        'objectives read .* Mend: dropout in front of a tap',
    ):
        noisy(
            [dict(type='TeacherDropout')],
            teacher=dict(model=teacher, allow_untrained=True),
            objectives=objectives,
            taps=dict(logits='decode_head.conv_seg', feat='decode_head.bottleneck'),
        )


def test_noise_that_nothing_would_feel_is_refused() -> None:
    with pytest.raises(ValueError, match='objectives is empty'):  # a teacher would run for nothing
        noisy([dict(type='GaussianInput', std=0.1)], objectives=None)
    with pytest.raises(
        ValueError,
        match="task_weight=0 leaves out the students' own losses, .* that see the "
        'labels of LabelFlip',
    ):
        noisy([dict(type='LabelFlip', rate=0.1)], task_weight=0.0)
    with pytest.raises(
        ValueError, match='task_weight=0 without objectives: nothing would be learned'
    ):
        noisy([dict(type='GaussianInput', std=0.1)], teacher=None, objectives=None, task_weight=0.0)


def test_a_student_of_unknown_classes_must_be_told() -> None:
    flip = LabelFlip(rate=0.1)
    with pytest.raises(
        ValueError, match='student does not say how many classes it has. Mend: num_classes'
    ):
        flip.bind(Host('student', 'student', nn.Identity(), [], nn.Identity()))


def test_noises_may_be_given_built() -> None:
    model = noisy([GaussianInput(0.1), TeacherDropout(), TargetNoise(0.1)])
    assert {name: len(run.noises.each) for name, run in model.runs.items()} == dict(
        student=1, teacher=2
    )
