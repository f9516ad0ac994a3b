# Proxy-Dirichlet from three PSPNet-R101 (mmkd train-ensemble); nothing of it was trained here.
_base_ = '../pairs/kd_pspnet_r101-r18_cityscapes-512x1024-80k.py'
teacher = dict(cfg='mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py', precision='bf16')
folder = 'work_dirs/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024/seed_'
model = dict(
    teacher=None,
    teachers={f't{n}': dict(**teacher, checkpoint=f'{folder}{n}/iter_80000.pth') for n in range(3)},
    objectives=dict(
        _delete_=True,
        proxy=dict(
            loss=dict(type='ProxyDirichletLoss'),
            weight=10.0,
            reads=dict(student='student.logits', teachers='t*.logits'),
        ),
    ),
)
