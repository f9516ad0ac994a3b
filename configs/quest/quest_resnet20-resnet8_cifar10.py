# QUEST on the last map before pooling (8×8×64, after its ReLU), with the labels, weights 1 and 1 as
# in the paper.
_base_ = '../pairs/kd_resnet20-resnet8_cifar10.py'
model = dict(
    objectives=dict(
        _delete_=True,
        quest=dict(loss=dict(type='AssignmentKLLoss', num_words=256, tau='auto'), on='feat'),
    ),
    task_weight=1.0,
)
