# The paper's pair; the weights are ours, the paper's are not known to us.
_base_ = '../pairs/kd_resnet164-resnet20_cifar10.py'
stages = [f'stage{n}' for n in (1, 2, 3)]
model = dict(
    taps=dict(
        _delete_=True,
        logits='head.fc',
        pooled='head.fc:input',
        stage1='backbone.layer1',
        stage2='backbone.layer2',
        stage3='backbone.layer3',
    ),
    objectives=dict(
        _delete_=True,
        logit=dict(
            loss=dict(type='LogitMSELoss'), on='logits', reads=dict(mask='batch.valid'), weight=0.1
        ),
        squeezed=dict(
            loss=dict(type='SqueezedKnowledgeLoss', num_classes=10, loss_weight=0.1),
            reads=dict(
                student=[f'student.{s}' for s in stages],
                teacher=[f'teacher.{s}' for s in stages],
                student_global='student.pooled',
                teacher_global='teacher.pooled',
                labels='batch.labels',
            ),
        ),
        adversarial=dict(
            loss=dict(
                type='AdversarialLoss',
                mode='bce',
                critic=dict(type='CategoryCritic'),
                l1=1e-5,
                l2=1e-4,
                adversarial_sample=0.1,
            ),
            on='logits',
            reads=dict(labels='batch.labels', mask='batch.valid'),
            weight=0.1,
        ),
    ),
    task_weight=0.0,
)
optim_wrapper = dict(critic=dict(optimizer=dict(_delete_=True, type='Adam', lr=1e-3)))
