# mmsegmentation's own PSPNet R18 under its PSPNet R101, whose published weights are fetched;
# objectives are the recipe's.
model = dict(
    type='mmkd.Distiller',
    student=dict(cfg='mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'),
    teacher=dict(
        cfg='mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py',
        precision='bf16',
        checkpoint='https://mmassets.onedl.ai/mmsegmentation/v0.5/pspnet/pspnet_r101-d8_512x1024_80k_cityscapes/'
        'pspnet_r101-d8_512x1024_80k_cityscapes_20200606_112211-e1e1100f.pth',
    ),
    taps=dict(logits='decode_head.conv_seg', feat='decode_head.bottleneck'),
)
