"""Small dense detectors that tests share; they need mmdet, see helpers.runs.need_mmdet."""


def detector(width: int) -> dict:
    """Return a small FCOS whose neck has as many channels as its backbone's first stage."""
    return dict(
        type='FCOS',
        data_preprocessor=dict(
            type='DetDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3, pad_size_divisor=32
        ),
        backbone=dict(type='ResNet', depth=18, base_channels=width, stem_channels=width),
        neck=dict(
            type='FPN',
            in_channels=[width, 2 * width, 4 * width, 8 * width],
            out_channels=width,
            start_level=1,
            num_outs=5,
            add_extra_convs='on_output',
        ),
        bbox_head=dict(
            type='FCOSHead',
            num_classes=3,
            in_channels=width,
            feat_channels=width,
            stacked_convs=1,
            norm_cfg=dict(type='GN', num_groups=4),
        ),
    )
