# RTE: the student without distillation, 3 layers of the fine-tuned teacher.
_base_ = './teacher_minilm_rte.py'
model = dict(
    options=dict(num_hidden_layers=3),
    layers=[1, 3, 5],
    pretrained='work_dirs/teacher_minilm_rte/iter_500.pth',
)
