"""KSANC: squeezed knowledge of many stages."""
