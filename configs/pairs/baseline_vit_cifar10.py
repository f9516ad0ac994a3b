# A vision transformer of 3 layers alone, on patches of 4×4 pixels, as long as the ResNet-8: 5
# passes.
_base_ = './baseline_resnet8_cifar10.py'
model = dict(
    in_channels=96,
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        img_size=32,
        patch_size=4,
        embed_dims=96,
        num_layers=3,
        num_heads=3,
        mlp_ratio=2,
        out_indices=-1,
        final_norm=True,
    ),
)
optim_wrapper = dict(
    student=dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05))
)
