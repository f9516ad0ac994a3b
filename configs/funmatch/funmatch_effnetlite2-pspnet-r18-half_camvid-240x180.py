# Function matching on CamVid, labels for every fourth frame: 2,400 iterations of mixtures of all
# frames; no label is read, and so no auxiliary head is there.
_base_ = './kd-unlabelled_effnetlite2-pspnet-r18-half_camvid-240x180.py'
model = dict(
    student=dict(model=dict(auxiliary_head=None)),
    objectives=dict(
        _delete_=True,
        pixel=dict(
            loss=dict(type='PixelWiseKLLoss', tau=1.0),
            on='logits',
            connectors=dict(teacher='auto'),
        ),
    ),
    noise=[dict(type='InputMixup')],
    task_weight=0.0,
)
train_cfg = dict(max_iters=2400, val_interval=600)
