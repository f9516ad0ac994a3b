# KSANC with 100 labelled scenes, seen 120 times each.
_base_ = './ksanc_unet_digit-scenes.py'
train_dataloader = dict(dataset=dict(num_scenes=100))
