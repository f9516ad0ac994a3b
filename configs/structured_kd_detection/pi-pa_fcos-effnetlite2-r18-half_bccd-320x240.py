# Pixel-wise and pair-wise (+PI +PA), the latter on every FPN level.
_base_ = './pi_fcos-effnetlite2-r18-half_bccd-320x240.py'
levels = range(5)  # whose mean is taken
model = dict(
    objectives={
        f'pair{k}': dict(loss=dict(type='PairWiseAffinityLoss'), on=f'feat{k}', weight=10.0 / 5)
        for k in levels
    }
)
