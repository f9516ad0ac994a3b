# Fickle Teacher: the teacher's dropout stays on while it supervises, with a new mask in every step.
_base_ = '../pairs/kd_wrn-22-1-dropout-resnet8_cifar10.py'
model = dict(noise=[dict(type='TeacherDropout')])
