# The paper's pair and setting: 4096 words on the last map after its BN and ReLU, tau = 0.2, gamma
# from 3, weights 1.
_base_ = '../pairs/kd_wrn-40-2-wrn-16-2_cifar100.py'
model = dict(
    taps=dict(_delete_=True, feat='backbone.relu'),
    objectives=dict(
        _delete_=True,
        quest=dict(
            loss=dict(type='AssignmentKLLoss', num_words=4096, tau=0.2, gamma=3.0), on='feat'
        ),
    ),
    task_weight=1.0,
)
