# KSANC on the four stages of both backbones and on every labelled pixel; nothing of it was trained
# here.
_base_ = '../pairs/kd_pspnet_r101-r18_cityscapes-512x1024-80k.py'
stages = [f'stage{n}' for n in (1, 2, 3, 4)]
model = dict(
    taps=dict(
        _delete_=True,
        logits='decode_head.conv_seg',
        pooled='decode_head.bottleneck',
        stage1='backbone.layer1',
        stage2='backbone.layer2',
        stage3='backbone.layer3',
        stage4='backbone.layer4',
    ),
    objectives=dict(
        _delete_=True,
        logit=dict(
            loss=dict(type='LogitMSELoss'), on='logits', reads=dict(mask='batch.valid'), weight=0.1
        ),
        squeezed=dict(
            loss=dict(type='SqueezedKnowledgeLoss', num_classes=19, loss_weight=0.1),
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
)
