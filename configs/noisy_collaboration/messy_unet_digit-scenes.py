# Messy Collaboration, region by region: a fifth of the student's label regions has a wrong class.
_base_ = '../pairs/kd_unet_digit-scenes.py'
model = dict(noise=[dict(type='LabelFlip', rate=0.2, per='region')])
