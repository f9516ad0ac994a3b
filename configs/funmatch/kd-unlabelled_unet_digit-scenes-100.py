# 100 labelled scenes, eight of them in each batch as without the others, and eight of 20,000 more
# that have no labels.
_base_ = './kd-unlabelled_unet_digit-scenes.py'
train_dataloader = dict(
    batch_size=16,
    sampler=dict(labelled=8, unlabelled=8),
    dataset=dict(dataset=dict(num_scenes=100)),
)
