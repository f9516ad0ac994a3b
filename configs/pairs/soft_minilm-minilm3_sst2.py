# Soft labels alone beside the hard ones: what internal representations are compared with.
_base_ = './baseline_minilm3_sst2.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teacher=dict(
        cfg='{{ fileDirname }}/teacher_minilm_sst2.py',
        precision='bf16',
        checkpoint='work_dirs/teacher_minilm_sst2/iter_500.pth',
    ),
    taps=dict(logits='model.classifier'),
    objectives=dict(soft=dict(loss=dict(type='PixelWiseKLLoss'), on='logits')),
)
