# PSPNet R101 → R18, 512×1024 crops, 80k iterations, batch 8: mmsegmentation's own setting of both models.
_base_ = ['../_base_/cityscapes_512x1024.py', '../_base_/schedule_80k.py', '../_base_/runtime.py']
model = dict(
    type='mmkd.Distiller',
    student=dict(cfg='mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'),
    teacher=dict(
        cfg='mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py', precision='bf16',
        checkpoint='https://mmassets.onedl.ai/mmsegmentation/v0.5/pspnet/pspnet_r101-d8_512x1024_80k_cityscapes/'
                   'pspnet_r101-d8_512x1024_80k_cityscapes_20200606_112211-e1e1100f.pth'),
    taps=dict(logits='decode_head.conv_seg', feat='decode_head.bottleneck'),
    objectives=dict(
        pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', weight=10.),
        pair=dict(loss=dict(type='PairWiseAffinityLoss', patch=2), on='feat', weight=10.),
        holistic=dict(loss=dict(type='AdversarialLoss', activation='softmax', critic=dict(type='HolisticCritic')),
                      on='logits', reads=dict(image='batch.inputs'), weight=.1)))
