# Plain logit distillation of BERT-base into 6 layers, which begin as every second layer of the
# fine-tuned teacher.
_base_ = './teacher_bert-base_sst2.py'
weights = 'work_dirs/teacher_bert-base_sst2/iter_5685.pth'
student = dict(
    _base_.model,
    options=dict(num_hidden_layers=6),
    layers=[1, 3, 5, 7, 9, 11],
    pretrained=weights,
)
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model=student),
    teacher=dict(
        cfg='{{ fileDirname }}/teacher_bert-base_sst2.py',
        checkpoint=weights,
        precision='bf16',
    ),
    taps=dict(logits='model.classifier'),
    objectives=dict(soft=dict(loss=dict(type='PixelWiseKLLoss'), on='logits')),
)
