# The control of Messy Collaboration: the student alone, on the same wrong labels.
_base_ = '../pairs/baseline_resnet8_cifar10.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    noise=[dict(type='LabelFlip', rate=0.2)],
)
