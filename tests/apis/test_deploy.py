"""A student as one file: the same numbers from plain pixels, in onnxruntime and in torch.export."""

import json
import sys
from argparse import Namespace
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import texts
from helpers.classification import classifier
from helpers.runs import CLASSES, loader, run_config, train, write_images
from helpers.shells import here, refusal
from helpers.tiny import preprocessor, segmentor
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmkd.apis.deploy import deploy, deploy_student, formats, run
from mmkd.apis.deploy.check import Check, compare
from mmkd.apis.deploy.costs import flops, size_of
from mmkd.apis.deploy.formats import open_onnx, require_onnx, run_onnx
from mmkd.apis.deploy.graph import Graph, check_kind
from mmkd.apis.deploy.image import find_image
from mmkd.apis.deploy.run import graph_of

onnx = pytest.importorskip('onnx', reason="pip install 'mmkd[onnx]'")
pytest.importorskip('onnxscript', reason="pip install 'mmkd[onnx]'")
pytest.importorskip('onnxruntime', reason="pip install 'mmkd[onnx]'")

DEPTH = dict(
    type='DepthEstimator',
    decode_head=dict(
        type='mmkd.DepthHead',
        min_depth=0.5,
        max_depth=10.0,
        num_bins=8,
        in_channels=32,
        in_index=3,
        channels=8,
        dropout_ratio=0.0,
        norm_cfg=dict(type='BN'),
    ),
)


def models() -> dict[str, dict]:
    """Return a small model of each task; the images of the first are padded to 48."""
    padded = preprocessor(48, mean=90.0, test_cfg=dict(size_divisor=24))
    plain = segmentor(4, num_classes=3, size=48, auxiliary=False)
    depth = {**plain, **DEPTH, 'data_preprocessor': preprocessor(48, seg_pad_val=0)}
    return dict(
        segmentation={**plain, 'data_preprocessor': padded},
        classification={**classifier(2), '_scope_': 'mmkd'},
        depth=depth,
    )


def student(folder: Path, model: dict, **changes: Any) -> tuple[Path, Path]:
    """Write a plain student as mmkd.export_student does: weights that are no initial ones."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    scope = model.get('_scope_', 'mmseg')
    own = {key: value for key, value in model.items() if key != '_scope_'}
    kind = own['type'] if scope == 'mmseg' else f'mmkd.{own["type"]}'
    built = MODELS.build({**own, 'type': kind, '_scope_': 'mmseg'})
    for name, value in built.state_dict().items():
        if name.endswith('running_var'):
            value.uniform_(0.5, 2)
        elif 'num_batches' not in name:
            value.normal_(0, 0.2)
    config = dict(default_scope='mmseg', model={**own, 'type': kind}, **changes)
    Config(config).dump(folder / 'config.py')
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=built.state_dict(), meta=meta), folder / 'net.pth')
    return folder / 'net.pth', folder / 'config.py'


def load(weights: Path, config: Path) -> Any:
    model = MODELS.build({**Config.fromfile(config).model, '_scope_': 'mmseg'})
    model.load_state_dict(torch.load(weights, weights_only=False)['state_dict'])
    return model.eval()


def pixels(count: int = 3, size: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def data_of(size: int = 40) -> dict:
    image = pixels(1, size)[0]
    sample = dict(img_shape=(size, size), ori_shape=(size, size))
    from mmseg.structures import SegDataSample

    return dict(inputs=image, data_samples=SegDataSample(metainfo=sample))


def by_the_model(model: Any, images: torch.Tensor) -> torch.Tensor:
    """Return what the model's own test gives for images, the way that a data set's go."""
    from mmseg.structures import SegDataSample

    size = tuple(images.shape[2:])
    samples = [SegDataSample(metainfo=dict(img_shape=size, ori_shape=size)) for _ in images]
    with torch.no_grad():
        found = model.test_step(dict(inputs=list(images), data_samples=samples))
    keys = ('seg_logits', 'pred_depth_map', 'pred_logits')
    key = next(key for key in keys if key in found[0])
    values = [sample.get(key) for sample in found]
    return torch.stack([getattr(value, 'data', value) for value in values])


# ---------------------------------------------------------------- what the file computes


@pytest.mark.parametrize(
    'kind',
    [
        pytest.param('segmentation', marks=pytest.mark.slow),
        'classification',
        pytest.param('depth', marks=pytest.mark.slow),
    ],
)
def test_onnxruntime_computes_from_pixels_what_the_model_computes_from_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    weights, config = student(tmp_path, models()[kind])
    monkeypatch.setattr(run, 'find_image', lambda *_: (data_of(), 'a test'))
    found = deploy(weights, config, repeats=1)
    assert found.file == tmp_path / 'net.onnx'
    assert found.dynamic
    assert found.check.agreement == 100
    session = open_onnx(found.file.read_bytes())
    expected = by_the_model(load(weights, config), pixels())
    output = run_onnx(session, pixels().float())
    assert output.shape == expected.shape
    assert (output - expected).abs().max() < 1e-4 * max(1, expected.abs().max())
    assert run_onnx(session, pixels(1).float())[0].allclose(output[0], atol=1e-4)
    onnx.checker.check_model(onnx.load(found.file))
    names = [[each.name for each in part] for part in (session.get_inputs(), session.get_outputs())]
    assert names == [['inputs'], ['logits']]
    said = session.get_modelmeta().custom_metadata_map
    assert (said['task'], json.loads(said['classes'])) == (kind, list(CLASSES))
    assert '(N, 3, 40, 40)' in said['inputs']


@pytest.mark.slow
def test_windows_that_slide_are_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = segmentor(4, num_classes=3, size=48, auxiliary=False)
    model['test_cfg'] = dict(mode='slide', crop_size=(24, 24), stride=(16, 16))
    weights, config = student(tmp_path, model)
    monkeypatch.setattr(run, 'find_image', lambda *_: (data_of(), 'a test'))
    found = deploy(weights, config, repeats=1)
    images = pixels(1)
    expected = by_the_model(load(weights, config), images)
    output = run_onnx(open_onnx(found.file.read_bytes()), images.float())
    assert (output - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.slow
def test_torch_export_needs_no_mmkd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, config = student(tmp_path, models()['segmentation'])
    monkeypatch.setattr(run, 'find_image', lambda *_: (data_of(), 'a test'))
    found = deploy(weights, config, 'torch_export', repeats=1)
    assert found.file.name == 'net.pt2'
    texts = dict.fromkeys(['task.txt', 'classes.txt'], '')
    program = torch.export.load(found.file, extra_files=texts)
    expected = by_the_model(load(weights, config), pixels())
    assert program.module()(pixels().float()).allclose(expected, atol=1e-4)
    assert texts['task.txt'] in ('segmentation', b'segmentation')


def test_the_graph_sees_what_the_data_preprocessor_makes() -> None:
    model = MODELS.build({**models()['segmentation'], '_scope_': 'mmseg'})
    graph, images, _ = graph_of(model, data_of())
    assert (graph.size, graph.padded) == ((40, 40), (48, 48))
    seen = graph.preprocess(images)
    assert seen.shape[2:] == (48, 48)
    assert (seen[..., 40:, :] == 0).all()
    assert seen[0, 0, 3, 5].item() == pytest.approx((images[0, 2, 3, 5].item() - 90) / 50, abs=1e-5)


@pytest.mark.bad_input
def test_a_data_preprocessor_that_does_more_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS.build({**models()['segmentation'], '_scope_': 'mmseg'})
    plain = model.data_preprocessor.forward

    def brighter(data: dict, training: bool = False) -> dict:
        seen = plain(data, training)
        return {**seen, 'inputs': seen['inputs'] + 1}

    monkeypatch.setattr(model.data_preprocessor, 'forward', brighter)
    with pytest.raises(ValueError, match=r'SegDataPreProcessor of this model does more .* Mend: '):
        graph_of(model, data_of())


def test_one_channel_is_a_foreground_above_its_threshold() -> None:
    model = MODELS.build({**segmentor(4, 3, auxiliary=False), '_scope_': 'mmseg'})
    graph = Graph(model, (2, 2))
    model.decode_head.threshold = 0.3
    logits = torch.tensor([-1.0, -0.5, 0.0, 2.0]).view(1, 1, 2, 2)  # sigmoid .27, .38, .5, .88
    assert graph.labels(logits).flatten().tolist() == [0, 1, 1, 1]


@pytest.mark.bad_input
def test_other_tasks_are_refused_with_the_tool_for_them() -> None:
    detector = nn.Module()
    detector.bbox_head = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r'cannot be written as one graph .*mmdeploy'):
        check_kind(detector)
    with pytest.raises(ValueError, match='can be: segmentation, classification, depth'):
        check_kind(nn.Linear(1, 1))


@pytest.mark.bad_input
def test_a_text_model_is_refused_before_an_image_is_looked_for(tmp_path: Path) -> None:
    model = {**texts.classifier(), '_scope_': 'mmkd', 'type': 'HFTextClassifier'}
    weights, config = student(tmp_path, model)
    with pytest.raises(ValueError, match=r'HFTextClassifier cannot be written .*transformers'):
        deploy(weights, config, 'torch_export')


def test_what_a_file_says_of_one_channel(tmp_path: Path) -> None:
    model = MODELS.build({**segmentor(4, 3, auxiliary=False), '_scope_': 'mmseg'})
    graph = Graph(model, (2, 2))
    model.decode_head.threshold = 0.3
    torch.save(dict(state_dict={}), tmp_path / 'net.pth')
    one, three = (
        run._about(graph, torch.zeros(1, channels, 2, 2), tmp_path / 'net.pth')
        for channels in (1, 3)
    )
    assert one['threshold'] == 'foreground where sigmoid(logits) > 0.3'
    assert 'threshold' not in three


# ---------------------------------------------------------------- whether it may be kept


def test_how_far_outputs_are_apart_by_value() -> None:
    reference = torch.tensor([[[2.0, -4.0]], [[1.0, 8.0]]])
    output = reference + torch.tensor([[[0.0, 0.5]], [[0.0, 0.0]]])
    labels = torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 1], [1, 0]])
    assert compare(output, reference, labels) == Check(0.5, 8.0, 75.0, 2)
    assert compare(output, reference).agreement == 75.0  # of depth: one of four is off by 12 %
    with pytest.raises(ValueError, match=r'\(2, 1, 2\), the model \(1, 1, 2\)'):
        compare(output, reference[:1])


@pytest.mark.parametrize(
    ('difference', 'agreement', 'passed'),
    [(0.009, 99.9, True), (0.011, 100.0, False), (0.0, 99.89, False), (float('nan'), 100.0, False)],
)
def test_when_a_file_may_be_kept(difference: float, agreement: float, passed: bool) -> None:
    assert Check(difference, 10.0, agreement, 1).passed == passed


def test_small_outputs_may_differ_by_less() -> None:
    assert Check(0.00009, 0.1, 100.0, 1).passed
    assert not Check(0.00011, 0.1, 100.0, 1).passed


@pytest.mark.bad_input
def test_a_file_that_differs_is_refused_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, config = student(tmp_path, models()['classification'])
    monkeypatch.setattr(run, 'find_image', lambda *_: (data_of(32), 'a test'))
    write = run.write

    def write_wrong(*args: Any) -> Any:
        made = write(*args)
        return replace(made, run=lambda x: -made.run(x))

    monkeypatch.setattr(run, 'write', write_wrong)
    with pytest.raises(ValueError, match=r'net.pt2 was not kept.* 0.00 % agree.*Mend: .*--force'):
        deploy(weights, config, 'torch_export', repeats=1)
    assert not (tmp_path / 'net.pt2').exists()
    found = deploy(weights, config, 'torch_export', force=True, repeats=1)
    assert found.file.exists()
    assert not found.check.passed


@pytest.mark.bad_input
@pytest.mark.parametrize('kind', [None, 'torch_export'])
def test_files_of_earlier_weights_do_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str | None
) -> None:
    weights, config = student(tmp_path, models()['classification'])
    for suffix in ('.pt2', '.onnx'):
        weights.with_suffix(suffix).write_text('old')
    torch.save(dict(meta=dict(cfg="model = dict(type='Distiller')")), tmp_path / 'iter_2.pth')

    def refuse(*_: Any) -> None:
        raise ValueError('it differs')

    monkeypatch.setattr(run, 'deploy', refuse)
    args = Namespace(deploy=kind, image=None, force=False, repeats=None)
    with nullcontext() if kind is None else pytest.raises(ValueError, match='it differs'):
        deploy_student(args, weights, config, tmp_path / 'iter_2.pth')
    assert sorted(file.suffix for file in tmp_path.glob('net.*')) == ['.pth']


@pytest.mark.bad_input
@pytest.mark.parametrize('flags', [['--image', 'a.png'], ['--force'], ['--repeats', '20']])
def test_flags_of_a_file_that_is_not_written_are_refused(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        here('export_student.py', 'iter_2.pth', 'out', *flags, monkeypatch=monkeypatch)
    assert stopped.value.code == 2
    assert 'are of the file that --onnx or --torch-export writes' in capfd.readouterr().err


@pytest.mark.bad_input
@pytest.mark.parametrize('name', formats.LIBRARIES)
def test_a_missing_library_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"--onnx needs {name}, .*pip install 'mmkd\[onnx\]'"):
        require_onnx()


@pytest.mark.bad_input
def test_what_cannot_be_traced_is_said_in_one_sentence() -> None:
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = self

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs if inputs.sum().item() > 0 else -inputs

    with pytest.raises(RuntimeError, match=r'Moody cannot be traced for \.pt2 \(.*\)\. Mend: '):
        formats.write('torch_export', Moody(), torch.ones(2, 1), {})


# ---------------------------------------------------------------- the image


def test_the_image_is_given_or_the_first_of_the_test_set_or_generated(tmp_path: Path) -> None:
    write_images(tmp_path)
    test_set = loader(tmp_path, False)
    cfg = Config(dict(test_dataloader=test_set, test_pipeline=test_set['dataset']['pipeline']))
    model = load(*student(tmp_path / 'net', models()['segmentation']))
    data, source = find_image(cfg, model)
    assert source == f'the first image of the test set, {tmp_path}/img/0.png'
    given, source = find_image(cfg, model, str(tmp_path / 'img/3.png'))
    assert source == f'{tmp_path}/img/3.png'
    expected = cv2.imread(source).transpose(2, 0, 1)
    assert np.array_equal(given['inputs'].numpy(), expected)
    assert not np.array_equal(data['inputs'].numpy(), expected)
    cfg.test_dataloader.dataset.data_root = str(tmp_path / 'elsewhere')
    data, source = find_image(cfg, model)
    assert source.startswith('a generated image (no test set: ')
    assert 'cannot list its samples' in source
    assert data['inputs'].shape == (3, 48, 48)
    assert find_image(Config(dict()), model)[1] == 'a generated image (the config has no test set)'


@pytest.mark.bad_input
def test_an_image_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'a.png').write_text('no image')
    model = MODELS.build({**models()['segmentation'], '_scope_': 'mmseg'})
    cfg = Config(dict(test_pipeline=[dict(type='PackSegInputs')]))
    with pytest.raises(FileNotFoundError, match=r"b.png is no file; did you mean 'a.png'"):
        find_image(cfg, model, str(tmp_path / 'b.png'))
    with pytest.raises(ValueError, match='cannot be read as an image'):
        find_image(cfg, model, str(tmp_path / 'a.png'))


# ---------------------------------------------------------------- costs, and the tool


def test_operations_are_counted_by_hand() -> None:
    """A 3×3 convolution from 3 to 8 channels on 4×5 pixels: 2·8·3·9·20 operations."""
    graph = nn.Conv2d(3, 8, 3, padding=1)
    assert flops(graph, torch.zeros(1, 3, 4, 5)) == 2 * 8 * 3 * 9 * 20


def test_operations_of_attention_are_counted_by_hand() -> None:
    """Of 5 tokens of width 8 in 2 heads: 3 + 1 projections, and two products of 5×4 and 4×5."""
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()

    class Own(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return attention(x, x, x, need_weights=False)[0]

    before = torch.backends.mha.get_fastpath_enabled()
    hand = 4 * 2 * 5 * 8 * 8 + 2 * (2 * 2 * 5 * 5 * 4)
    assert flops(Own(), torch.zeros(1, 5, 8)) == hand  # type: ignore[arg-type]
    assert torch.backends.mha.get_fastpath_enabled() == before

    class Fused(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    count = flops(Fused(), torch.zeros(1, 2, 5, 4))  # type: ignore[arg-type]
    assert count == 2 * (2 * 2 * 5 * 5 * 4)


def test_sizes_of_files(tmp_path: Path) -> None:
    (tmp_path / 'a.onnx').write_bytes(bytes(1_230_000))
    assert size_of(tmp_path / 'a.onnx', tmp_path / 'b.pth', None) == '1.23 MB .onnx'


@pytest.mark.slow
def test_the_tool_exports_checks_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    cfg = run_config(tmp_path, max_iters=2)
    teacher_weights = tmp_path / 'teacher.pth'
    model = MODELS.build({**cfg.model.teacher.model, '_scope_': 'mmseg'})
    torch.save(dict(state_dict=model.state_dict()), teacher_weights)
    cfg.model.teacher = dict(model=cfg.model.teacher.model, checkpoint=str(teacher_weights))
    trained = train(cfg)
    capfd.readouterr()
    checkpoint = Path(trained.work_dir) / 'iter_2.pth'
    flags = ['--onnx', '--repeats', 2]
    here('export_student.py', checkpoint, tmp_path / 'out', *flags, monkeypatch=monkeypatch)
    said = capfd.readouterr().out
    assert f'wrote {tmp_path}/out/student.onnx: input inputs, output logits, any number' in said
    assert 'number of images, fixed to 40×40 pixels (height × width)' in said
    assert 'on the first image of the test set' in said
    assert '100.00 % agree' in said
    lines = [line.split('│') for line in said.splitlines() if line.startswith('│')]
    assert [line[1].strip() for line in lines] == ['teacher', 'student']
    student_weights = sum(p.numel() for p in trained.model.student.parameters())
    assert lines[1][3].strip() == f'{student_weights:,}'
    assert lines[0][6].strip() == '–'
    assert 'torch.utils.flop_counter' in said
    teacher_weights.unlink()
    flags = ['--torch-export', '--image', tmp_path / 'data/img/1.png']
    here('export_student.py', checkpoint, tmp_path / 'out', *flags, monkeypatch=monkeypatch)
    said = capfd.readouterr().out
    assert 'No row for the teacher: ' in said
    assert 'teacher.pth' in said.split('No row for the teacher: ')[1]
    flags = ['--torch-export', '--image', tmp_path / 'none.png']
    line = refusal(
        'export_student.py',
        checkpoint,
        tmp_path / 'out',
        *flags,
        monkeypatch=monkeypatch,
        capfd=capfd,
    )
    assert 'none.png is no file' in line
