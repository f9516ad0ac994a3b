"""Write a plain student (weights and config) out of a checkpoint of a Distiller."""

from mmkd.__main__ import tool

if __name__ == '__main__':
    tool('export')
