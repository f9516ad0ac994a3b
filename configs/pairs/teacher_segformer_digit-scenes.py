# The teacher of the vision rows: a SegFormer twice as wide, of the same heads.
_base_ = './baseline_segformer_digit-scenes.py'
model = dict(
    backbone=dict(embed_dims=32, num_layers=[2, 2, 4, 2]),
    decode_head=dict(in_channels=[32, 64, 128, 256], channels=128),
)
