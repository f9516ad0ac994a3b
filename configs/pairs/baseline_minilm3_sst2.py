# The student without distillation: 3 layers, which begin as those of the fine-tuned teacher that
# they are matched with.
_base_ = './teacher_minilm_sst2.py'
model = dict(
    options=dict(num_hidden_layers=3),
    layers=[1, 3, 5],
    pretrained='work_dirs/teacher_minilm_sst2/iter_500.pth',
)
