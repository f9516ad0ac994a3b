# Function matching on CamVid: 1,200 iterations, three times the pair's, of mixtures of all frames;
# no label is read.
_base_ = './kd-unlabelled_effnetlite2-effnetlite0_camvid-240x180.py'
model = dict(
    objectives=dict(
        _delete_=True, pixel=dict(loss=dict(type='PixelWiseKLLoss', tau=1.0), on='logits')
    ),
    noise=[dict(type='InputMixup')],
    task_weight=0.0,
)
train_cfg = dict(max_iters=1200, val_interval=600)
