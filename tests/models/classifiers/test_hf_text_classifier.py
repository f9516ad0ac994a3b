"""HFTextClassifier: what it computes, how it begins as layers of another, a whole run with
attention and [CLS].
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import run_config, train, unformatted_configs  # noqa: F401  an autouse fixture
from helpers.states import checkpoint, differences
from helpers.texts import classifier, loader, write_sentences, write_tokenizer
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement

from mmkd.datasets import PackTextInputs, TextFiles
from mmkd.distiller.taps.taps import Taps
from mmkd.losses.relations.attention_kl import attention_kl, attention_rows
from mmkd.models import TextDataPreprocessor
from mmkd.structures.batch import Batch, read_batch


def build(config: dict, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return MODELS.build(config).eval()


def sentences() -> torch.Tensor:
    """Return two sentences, the second shorter by two tokens of padding."""
    ids = torch.tensor([[2, 5, 6, 7, 8, 3], [2, 9, 10, 3, 0, 0]])
    mask = (ids != 0).long()
    return torch.stack([ids, mask, torch.zeros_like(ids)], 1)


def test_equals_the_library() -> None:
    """Logits, loss and prediction are those of transformers' own model on ids, mask and
    segments.
    """
    from transformers import BertForSequenceClassification

    model, x = build(classifier()), sentences()
    theirs = BertForSequenceClassification(model.model.config).eval()
    theirs.load_state_dict(model.model.state_dict())
    expected = theirs(
        input_ids=x[:, 0],
        attention_mask=x[:, 1],
        token_type_ids=x[:, 2],
        labels=torch.tensor([0, 1]),
    )
    torch.testing.assert_close(model(x), expected.logits)
    samples = [BaseDataElement(gt_label=torch.tensor([i])) for i in range(2)]
    torch.testing.assert_close(model(x, samples, 'loss')['loss_cls'], expected.loss)
    assert [s.pred_label.item() for s in model(x, samples, 'predict')] == expected.logits.argmax(
        1
    ).tolist()


def test_padding_changes_nothing() -> None:
    model, x = build(classifier()), sentences()
    torch.testing.assert_close(model(x)[1:], model(x[1:, :, :4]))


def test_the_preprocessor_pads_to_the_longest() -> None:
    data = dict(inputs=[torch.ones(3, n, dtype=torch.long) for n in (2, 4)], data_samples=None)
    x = TextDataPreprocessor(pad_token=9)(data)['inputs']
    assert x[0].tolist() == [[1, 1, 9, 9], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert x[1].tolist() == [[1] * 4] * 3


@pytest.mark.parametrize('kernel', ['eager', 'sdpa'])
def test_queries_and_keys_give_the_attention_of_any_kernel(kernel: str) -> None:
    model, x = build(classifier(attn_implementation=kernel)), sentences()
    path = 'model.bert.encoder.layer.1.attention.self'
    taps = Taps(model, dict(q=f'{path}:query', k=f'{path}:key'))
    with taps.recording() as seen:
        model(x)
    found = attention_rows(*(taps.read(seen)[name] for name in 'qk'), x[:, 1].bool())
    eager = build(classifier(attn_implementation='eager'))
    expected = eager.model(
        input_ids=x[:, 0], attention_mask=x[:, 1], output_attentions=True
    ).attentions[1]
    torch.testing.assert_close(found, expected)


def test_a_fused_kernel_that_hides_its_attention() -> None:
    model = build(classifier(attn_implementation='sdpa'))
    with (
        pytest.raises(TypeError, match=r"A fused attention kernel .*attn_implementation='eager'"),
        Taps(model, dict(a='model.bert.encoder.layer.0.attention.self:output[1]')).recording(),
    ):
        model(sentences())


def test_probabilities_after_dropout_are_refused() -> None:
    """They are what eager attention returns in training; in eval mode, or without dropout, they are
    attention.
    """
    tap = dict(a='model.bert.encoder.layer.0.attention.self:output[1]')
    model, x = (
        build(classifier(attn_implementation='eager', attention_probs_dropout_prob=0.3)),
        sentences(),
    )
    with Taps(model, tap).recording():
        model(x)
    with (
        pytest.raises(
            ValueError, match=r"probabilities after dropout of 0.3.*Mend: ':query' and ':key'"
        ),
        Taps(model.train(), tap).recording(),
    ):
        model(x)
    still = build(classifier(attn_implementation='eager', attention_probs_dropout_prob=0.0)).train()
    with Taps(still, tap).recording() as seen:
        still(x)
    torch.testing.assert_close(seen['a'].values[0].sum(-1), torch.ones(2, 2, 6))


def test_attention_with_rotary_positions_is_not_that_of_queries_and_keys() -> None:
    from transformers import RoFormerConfig, RoFormerModel

    model = RoFormerModel(
        RoFormerConfig(
            vocab_size=15,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        )
    )
    with (
        pytest.raises(
            TypeError,
            match='a RoFormerSelfAttention is not known to attend by its queries and keys',
        ),
        Taps(model, dict(q='encoder.layer.0.attention.self:query')).recording(),
    ):
        model(torch.ones(1, 3, dtype=torch.long))


@pytest.mark.parametrize('place', ['options', 'config'])
def test_a_kernel_is_chosen_for_a_folder_too(tmp_path: Path, place: str) -> None:
    build(classifier()).model.config.save_pretrained(tmp_path)
    config = (
        dict(
            type='mmkd.HFTextClassifier',
            config=str(tmp_path),
            num_classes=2,
            options=dict(attn_implementation='eager'),
        )
        if place == 'options'
        else classifier(attn_implementation='eager')
    )
    assert build(config).model.config._attn_implementation == 'eager'


def test_a_text_teacher_keeps_its_precision_under_autocast(tmp_path: Path) -> None:
    teacher = str(tmp_path / 'teacher.pth')
    torch.save(dict(state_dict=build(classifier(4)).state_dict()), teacher)
    model = build(distiller(teacher))
    batch = Batch(sentences(), [BaseDataElement(gt_label=torch.tensor([0]))] * 2)
    plain = model.runs['teacher'].observe(batch)[0]['logits']
    with torch.autocast('cpu', torch.bfloat16):
        found = model.runs['teacher'].observe(batch)[0]['logits']
    assert found.dtype == torch.float32
    assert torch.equal(found, plain)


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    teacher = str(tmp_path / 'teacher.pth')
    torch.save(dict(state_dict=build(classifier(4, vocab_size=50)).state_dict()), teacher)
    student = str(tmp_path / 'student.pth')
    torch.save(dict(state_dict=build(classifier(4)).state_dict()), student)
    config = distiller(student)
    config['teacher'].update(model=classifier(4, vocab_size=50), checkpoint=teacher)
    with pytest.raises(
        ValueError, match=r'teacher has another vocabulary .*\(50, 0\), not \(15, 0\)'
    ):
        build(config)


# ---------------------------------------------------------------- where it begins


def test_weights_that_an_encoder_lacks_are_no_start(tmp_path: Path) -> None:
    """Nothing of the encoder begins at random in silence; a pooler that was never trained is named
    as new.
    """
    from safetensors.torch import load_file, save_file

    build(classifier(2)).model.bert.save_pretrained(tmp_path)
    state = load_file(tmp_path / 'model.safetensors')
    config = dict(
        type='mmkd.HFTextClassifier', config=str(tmp_path), num_classes=2, pretrained=str(tmp_path)
    )
    save_file(
        {k: v for k, v in state.items() if 'layer.1.' not in k}, tmp_path / 'model.safetensors'
    )
    with pytest.raises(
        ValueError, match=r'lacks \d+ weights of its encoder, such as .*layer.1.*would be random'
    ):
        build(config).init_weights()
    save_file({k: v for k, v in state.items() if 'pooler' not in k}, tmp_path / 'model.safetensors')
    model = build(config)
    pooler = model.model.bert.pooler.dense.weight.clone()
    model.init_weights()
    assert torch.equal(model.model.bert.pooler.dense.weight, pooler)
    assert torch.equal(
        model.model.bert.encoder.layer[1].output.dense.bias,
        state['encoder.layer.1.output.dense.bias'],
    )


def test_weights_without_layers(tmp_path: Path) -> None:
    torch.save(dict(state_dict={'classifier.weight': torch.zeros(2, 8)}), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'has no layers to begin as.*the exported student'):
        build(classifier(2, pretrained=str(tmp_path / 'other.pth'))).init_weights()


def test_it_begins_as_the_chosen_layers_of_a_checkpoint(tmp_path: Path) -> None:
    teacher = build(classifier(4), seed=1)
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / 'teacher.pth')
    student = build(classifier(2, pretrained=str(tmp_path / 'teacher.pth'), layers=[1, 3]))
    student.init_weights()
    own, theirs = student.model.state_dict(), teacher.model.state_dict()
    for key, value in own.items():
        for m, layer in enumerate((1, 3)):
            key = key.replace(f'.layer.{m}.', f'.taken.{layer}.')
        assert torch.equal(value, theirs[key.replace('.taken.', '.layer.')])
    first = build(classifier(2, pretrained=str(tmp_path / 'teacher.pth')))
    first.init_weights()
    assert torch.equal(
        first.model.bert.encoder.layer[1].attention.self.key.weight,
        teacher.model.bert.encoder.layer[1].attention.self.key.weight,
    )


def test_it_begins_as_an_encoder_in_a_folder_with_a_new_head(tmp_path: Path) -> None:
    from transformers import AutoModel

    source = build(classifier(2), seed=3)
    source.model.bert.save_pretrained(tmp_path / 'encoder')
    model = build(
        dict(
            type='mmkd.HFTextClassifier',
            config=str(tmp_path / 'encoder'),
            num_classes=3,
            options=dict(num_hidden_layers=1),
            pretrained=str(tmp_path / 'encoder'),
            layers=[1],
        )
    )
    head = model.model.classifier.weight.clone()
    model.init_weights()
    assert torch.equal(
        model.model.bert.encoder.layer[0].output.dense.weight,
        source.model.bert.encoder.layer[1].output.dense.weight,
    )
    assert torch.equal(model.model.classifier.weight, head)
    assert isinstance(AutoModel.from_pretrained(tmp_path / 'encoder'), type(source.model.bert))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(layers=[0, 1, 2]), r'layers=\[0, 1, 2\] are 3, but the model has 2 layers'),
        (dict(layers=[1, 4]), r'layers=\[1, 4\], but pretrained=.*has the layers 0 … 3'),
        (dict(width=12), 'is another architecture: .* do not fit'),
    ],
)
def test_layers_and_weights_that_do_not_fit(tmp_path: Path, changes: dict, message: str) -> None:
    torch.save(dict(state_dict=build(classifier(4)).state_dict()), tmp_path / 'teacher.pth')
    with pytest.raises(ValueError, match=message):
        build(classifier(2, pretrained=str(tmp_path / 'teacher.pth'), **changes)).init_weights()


def test_other_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="'nowhere' is not there .*config.json"):
        build(dict(type='mmkd.HFTextClassifier', config='nowhere', num_classes=2))
    with pytest.raises(
        KeyError, match="options name 'num_layer', which the config of a bert.*did you mean"
    ):
        build(classifier(options=dict(num_layer=2)))
    with pytest.raises(
        KeyError, match="options name 'hidden_layers', which the config of a bert.*did you mean"
    ):
        build(classifier(hidden_layers=5))
    with pytest.raises(
        KeyError, match="config needs a model_type, got .*Mend: dict\\(model_type='bert'"
    ):
        build(dict(type='mmkd.HFTextClassifier', config=dict(vocab_size=9), num_classes=2))
    with pytest.raises(
        FileNotFoundError, match="the package 'no_pkg' is not installed. Mend: pip install no-pkg"
    ):
        build(dict(type='mmkd.HFTextClassifier', config='no_pkg::model', num_classes=2))
    with pytest.raises(ValueError, match="mode='loss' needs data samples with 'gt_label'"):
        build(classifier())(sentences(), None, 'loss')
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(
        ImportError, match=r"HFTextClassifier needs the library transformers.*'mmkd\[text\]'"
    ):
        build(classifier())


# ---------------------------------------------------------------- data


def test_sentences_become_tokens(tmp_path: Path) -> None:
    pack = PackTextInputs(write_tokenizer(tmp_path / 'tokenizer'), max_length=8)
    data = TextFiles(
        write_sentences(tmp_path),
        'train.tsv',
        metainfo=dict(classes=['negative', 'positive']),
        limit=3,
    )
    assert [data[i]['row'] for i in range(3)] == [0, 6, 11]
    packed = pack(data[2])
    words = pack.tokenizer.convert_ids_to_tokens(packed['inputs'][0])
    assert words == ['[CLS]', 'the', 'film', 'is', 'very', 'very', 'very', '[SEP]']
    assert packed['data_samples'].gt_label.item() == 1
    pair = pack(dict(text=['a film', 'a plot'], gt_label=0))
    assert pair['inputs'][2].tolist() == [0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ('changes', 'error', 'message'),
    [
        (dict(ann_file='test.tsv'), FileNotFoundError, 'no file .*test.tsv'),
        (dict(text=['sentense']), KeyError, "has no column 'sentense'; did you mean 'sentence'"),
        (dict(text='sentence'), ValueError, "text must name one or two columns, got 'sentence'"),
        (dict(metainfo={}), ValueError, 'needs the names of the classes'),
        (
            dict(metainfo=dict(classes=['only'])),
            ValueError,
            r"has the label '1', which is none of the classes \['only'\]",
        ),
        (dict(limit=99), ValueError, 'limit=99, but .* has 12 rows'),
        (dict(limits=1), TypeError, "did you mean 'limit'"),
    ],
)
def test_bad_files(tmp_path: Path, changes: dict, error: type[Exception], message: str) -> None:
    config = dict(
        data_root=write_sentences(tmp_path),
        ann_file='train.tsv',
        metainfo=dict(classes=['no', 'yes']),
    )
    with pytest.raises(error, match=message):
        TextFiles(**(config | changes))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('sentence\tlabel\n', 'train.tsv has no rows'),
        ('sentence\tlabel\na film\t1\na plot\n', 'train.tsv has too few columns in line 3'),
    ],
)
def test_files_without_rows_or_labels(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / 'train.tsv').write_text(text)
    with pytest.raises(ValueError, match=f'{message}. Mend: a label and a sentence in every row'):
        TextFiles(str(tmp_path), 'train.tsv', metainfo=dict(classes=['no', 'yes']))


@pytest.mark.parametrize(
    'content', ['sentence\tlabel\nein schöner Film\t1\n'.encode('latin-1'), b'PK\x03\x04\xff\xfe']
)
def test_a_file_that_is_no_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / 'train.tsv').write_bytes(content)
    with pytest.raises(
        ValueError,
        match=r'TextFiles: .*train.tsv is no table of text in UTF-8 .*Mend: tab-separated',
    ):
        TextFiles(str(tmp_path), 'train.tsv', metainfo=dict(classes=['no', 'yes']))


# ---------------------------------------------------------------- a run


def distiller(teacher: str, **changes: Any) -> dict:
    """Return a student of two layers under a teacher of four: attention, [CLS] and soft labels,
    layer m under 2m.
    """
    layer = 'model.bert.encoder.layer.{}{}'
    taps = {
        side: {
            f'{kind}{m}': layer.format(step * m + step - 1, part)
            for m in range(2)
            for kind, part in (
                ('q', '.attention.self:query'),
                ('k', '.attention.self:key'),
                ('hidden', ''),
            )
        }
        for side, step in (('student', 1), ('teacher', 2))
    }
    terms: dict[str, dict] = {}
    for m in range(2):
        terms[f'attention{m}'] = dict(
            loss=dict(type='AttentionKLLoss'),
            reads=dict(
                student=f'student.q{m}',
                teacher=f'teacher.q{m}',
                student_key=f'student.k{m}',
                teacher_key=f'teacher.k{m}',
                mask='batch.tokens',
                key_mask='batch.tokens',
            ),
        )
        terms[f'cosine{m}'] = dict(
            loss=dict(type='HiddenCosineLoss', token='first'), on=f'hidden{m}'
        )
    terms['soft'] = dict(loss=dict(type='PixelWiseKLLoss'), on='logits')
    return (
        dict(
            type='mmkd.Distiller',
            student=dict(
                model=classifier(2, pretrained=teacher, layers=[1, 3]), taps=taps['student']
            ),
            teacher=dict(model=classifier(4), checkpoint=teacher, taps=taps['teacher']),
            taps=dict(logits='model.classifier'),
            objectives=terms,
        )
        | changes
    )


def run(folder: Path, name: str, max_iters: int, resume: bool = False, **changes: Any) -> Any:
    torch.save(dict(state_dict=build(classifier(4), seed=1).state_dict()), folder / 'teacher.pth')
    cfg = run_config(
        folder,
        distiller(str(folder / 'teacher.pth')),
        max_iters=max_iters,
        interval=3,
        val_interval=3,
        name=name,
    )
    cfg.merge_from_dict(
        dict(
            train_dataloader=dict(_delete_=True, **loader(folder)),
            val_dataloader=dict(_delete_=True, **loader(folder, False)),
            test_dataloader=None,
            val_evaluator=dict(_delete_=True, type='mmkd.Accuracy'),
            test_evaluator=None,
            test_cfg=None,
            optim_wrapper=dict(
                _delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2)
            ),
            **changes,
        )
    )
    return train(cfg, resume)


def test_a_run_learns_from_internal_representations(tmp_path: Path) -> None:
    """Stacked levels, teacher check, validation, exported student; the log's attention is that of
    the two models.
    """
    hook = dict(
        type='mmkd.ScheduleHook',
        levels=dict(
            type='stacked',
            levels=[['attention0', 'cosine0'], ['attention1', 'cosine1'], ['soft', 'task']],
            length=2,
            watch='cosine*',
        ),
    )
    runner = run(
        tmp_path,
        'run',
        6,
        custom_hooks=[
            dict(type='mmkd.TeacherCheckHook'),
            hook,
            dict(type='mmkd.ExactResumeHook'),
            dict(type='mmkd.ExportStudentHook'),
        ],
    )
    assert runner.message_hub.log_scalars['train/level'].data[0].tolist() == [0, 0, 1, 1, 2, 2]
    losses = runner.message_hub.log_scalars['train/attention1.loss'].data[0]
    assert (losses[2:4] > 0).all()
    assert losses[[0, 1, 4, 5]].tolist() == [0] * 4
    folder = Path(runner.work_dir) / 'student'
    plain = MODELS.build(Config.fromfile(folder / 'config.py').model)
    plain.load_state_dict(torch.load(folder / 'iter_6.pth')['state_dict'])
    x = sentences()
    torch.testing.assert_close(plain.eval()(x), runner.model.student.eval()(x))


def test_objectives_are_those_of_the_two_models(tmp_path: Path) -> None:
    teacher = build(classifier(4), seed=1)
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / 'teacher.pth')
    model = build(distiller(str(tmp_path / 'teacher.pth')))
    x = sentences()
    record, _ = model.observe(x, [BaseDataElement(gt_label=torch.tensor([0]))] * 2)

    def outputs(own: Any) -> Any:
        own.set_attn_implementation('eager')
        return own(
            input_ids=x[:, 0],
            attention_mask=x[:, 1],
            output_attentions=True,
            output_hidden_states=True,
        )

    found, theirs = outputs(model.student.model), outputs(teacher.model)
    for m, layer in enumerate((1, 3)):
        value = model.objectives[f'attention{m}'](record)[f'attention{m}.loss']
        torch.testing.assert_close(
            value, attention_kl(found.attentions[m], theirs.attentions[layer], x[:, 1].bool())
        )
        cosine = torch.cosine_similarity(
            found.hidden_states[m + 1][:, 0], theirs.hidden_states[layer + 1][:, 0]
        )
        torch.testing.assert_close(
            model.objectives[f'cosine{m}'](record)[f'cosine{m}.loss'], 1 - cosine.mean()
        )


def test_resume_is_exact(tmp_path: Path) -> None:
    whole = run(tmp_path, 'whole', 6)
    run(tmp_path, 'parts', 3)
    parts = run(tmp_path, 'parts', 6, resume=True)
    one, other = (checkpoint(runner, 'iter_6.pth')['state_dict'] for runner in (whole, parts))
    assert differences(one, other) == []


def test_padding_everywhere_and_images_have_no_tokens() -> None:
    with pytest.raises(
        ValueError, match=r'batch.tokens: the inputs \(1, 3, 8, 8\) are no sentences'
    ):
        read_batch(Batch(torch.zeros(1, 3, 8, 8)), 'tokens', None)
    assert read_batch(Batch(sentences()), 'tokens', None).sum(1).tolist() == [6, 4]
    empty = sentences()
    empty[1, 1] = 0
    with pytest.raises(
        ValueError, match=r'the sentences \[1\] of this batch are nothing but padding'
    ):
        read_batch(Batch(empty), 'tokens', None)
