# Segmentation: the last maps aligned directly.
_base_ = './dml_unetx2_digit-scenes.py'
model = dict(
    objectives={
        f'map{k}': dict(
            loss=dict(type='FeatureL1Loss'),
            reads=dict(student=f'peer{k}.feat', teacher=f'peer{1 - k}.feat'),
        )
        for k in range(2)
    }
)
