# Plain distillation with 100 labelled scenes, seen 120 times each: a pair that over-fits.
_base_ = './kd_unet_digit-scenes.py'
train_dataloader = dict(dataset=dict(num_scenes=100))
