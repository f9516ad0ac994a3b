"""Fit the vocabularies of a QUEST config beforehand: runs share them so."""

from mmkd.__main__ import tool

if __name__ == '__main__':
    tool('fit-vocabulary')
