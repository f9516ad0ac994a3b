# The control of Messy Collaboration: the student alone; a fifth of the label map's regions has a
# wrong class.
_base_ = '../pairs/baseline_unet_digit-scenes.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    noise=[dict(type='LabelFlip', rate=0.2, per='region')],
)
