# L1 + KD: the last maps aligned directly, in place of a discriminator.
_base_ = './dml_resnet8x2_cifar10.py'
model = dict(
    objectives={
        f'map{k}': dict(
            loss=dict(type='FeatureL1Loss'),
            reads=dict(student=f'peer{k}.feat', teacher=f'peer{1 - k}.feat'),
        )
        for k in range(2)
    }
)
