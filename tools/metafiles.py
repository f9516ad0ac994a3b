"""Write metafile.yml of every folder of configs, in a checkout."""

from mmkd.__main__ import tool

if __name__ == '__main__':
    tool('metafiles')
