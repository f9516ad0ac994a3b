# The student of camvid_effnetlite0.py with classes weighted by 1 / ln(1.02 + their share of all
# pixels), ENet's (mmseg divides by the sum of what counts).
_base_ = './camvid_effnetlite0.py'
class_weight = [0.8, 0.62, 4.73, 0.48, 2.21, 1.25, 4.45, 4.51, 1.83, 5.33, 6.14]
model = dict(decode_head=dict(loss_decode=dict(class_weight=class_weight)))
