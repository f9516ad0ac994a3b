"""Train by a config: a Distiller, or the plain baseline beside it."""

from mmkd.__main__ import tool

if __name__ == '__main__':
    tool('train')
