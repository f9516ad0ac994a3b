# KDCL with 100 labelled scenes: two U-Nets, both learn what the better of them says of a pixel.
_base_ = '../pairs/baseline_unet_digit-scenes-100.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    students={f'peer{k}': dict(model={{_base_.model}}) for k in range(2)},
    method='kdcl',
)
val_cfg = dict(type='mmkd.PeerValLoop')
test_cfg = dict(type='mmkd.PeerTestLoop')
