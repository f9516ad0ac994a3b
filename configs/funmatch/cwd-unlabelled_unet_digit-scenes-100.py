# Channel-wise distillation on the same images as kd-unlabelled_, its weight the method's own.
_base_ = './kd-unlabelled_unet_digit-scenes-100.py'
model = dict(
    objectives=dict(
        _delete_=True,
        channel=dict(loss=dict(type='ChannelWiseKLLoss', tau=4.0), on='logits', weight=3.0),
    )
)
