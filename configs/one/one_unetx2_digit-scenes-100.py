# ONE with 100 labelled scenes: two U-Nets, both learn their logits as a gate weighs them.
_base_ = '../pairs/baseline_unet_digit-scenes-100.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    students={f'peer{k}': dict(model={{_base_.model}}) for k in range(2)},
    method='one',
)
val_cfg = dict(type='mmkd.PeerValLoop')
test_cfg = dict(type='mmkd.PeerTestLoop')
