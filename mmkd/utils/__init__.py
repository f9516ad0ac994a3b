"""Helpers that know nothing of distillation."""

from mmkd.utils.set_env import register_all_modules as register_all_modules
