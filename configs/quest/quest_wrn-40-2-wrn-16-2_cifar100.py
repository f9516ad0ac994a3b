# The paper's pair and setting: 4096 words on the last map after its BN and ReLU, tau = 0.2, gamma from 3, weights 1.
_base_ = './baseline_wrn-16-2_cifar100.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teacher=dict(cfg='{{ fileDirname }}/teacher_wrn-40-2_cifar100.py',
                 checkpoint='work_dirs/teacher_wrn-40-2_cifar100/iter_187440.pth'),
    taps=dict(feat='backbone.relu'),
    objectives=dict(quest=dict(loss=dict(type='AssignmentKLLoss', num_words=4096, tau=0.2, gamma=3.), on='feat')))
