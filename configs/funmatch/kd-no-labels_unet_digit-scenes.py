# The images of kd-unlabelled_ and no label at all: KL at T = 2 alone.
_base_ = './kd-unlabelled_unet_digit-scenes.py'
model = dict(
    objectives=dict(pixel=dict(loss=dict(type='PixelWiseKLLoss', tau=2.0))), task_weight=0.0
)
