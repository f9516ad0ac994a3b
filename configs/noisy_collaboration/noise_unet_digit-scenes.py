# The control of Soft Randomization: the student alone, on the same noise.
_base_ = '../pairs/baseline_unet_digit-scenes.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    noise=[dict(type='GaussianInput', std=0.1)],
)
