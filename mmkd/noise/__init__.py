"""Noises of training: on images, on labels, in the teacher and on what it says."""

from mmkd.noise.base import Noise as Noise
from mmkd.noise.base import Noises as Noises
from mmkd.noise.gaussian_input import GaussianInput as GaussianInput
from mmkd.noise.input_mixup import InputMixup as InputMixup
from mmkd.noise.label_flip import LabelFlip as LabelFlip
from mmkd.noise.target_noise import TargetNoise as TargetNoise
from mmkd.noise.teacher_dropout import TeacherDropout as TeacherDropout
