"""Adapters: models that are no mm models, made members."""
from mmkd.adapters.hf_text_classifier import HFTextClassifier as HFTextClassifier
from mmkd.adapters.hf_text_classifier import TextDataPreprocessor as TextDataPreprocessor
