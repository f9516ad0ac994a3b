# The small U-Net alone, with 100 labelled scenes: 1,500 iterations see each of them 120 times.
_base_ = './baseline_unet_digit-scenes.py'
train_dataloader = dict(dataset=dict(num_scenes=100))
