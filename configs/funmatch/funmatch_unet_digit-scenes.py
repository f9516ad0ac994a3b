# Function matching: 6,000 iterations, four times the pair's, of mixtures of 2,000 scenes with labels
# and 20,000 without; no label is read.
_base_ = './kd-unlabelled_unet_digit-scenes.py'
model = dict(
    objectives=dict(
        _delete_=True, pixel=dict(loss=dict(type='PixelWiseKLLoss', tau=1.0), on='logits')
    ),
    noise=[dict(type='InputMixup')],
    task_weight=0.0,
)
train_cfg = dict(max_iters=6000, val_interval=1000)
