"""Classifiers of images and of text."""

from mmkd.models.classifiers.borrowed_image_classifier import (
    BorrowedImageClassifier as BorrowedImageClassifier,
)
from mmkd.models.classifiers.hf_text_classifier import HFTextClassifier as HFTextClassifier
from mmkd.models.classifiers.image_classifier import ImageClassifier as ImageClassifier
