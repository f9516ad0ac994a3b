"""What ``mmengine.hub.get_model('mmkd::…')`` asks of a package."""


def register_all_modules(init_default_scope: bool = True) -> None:
    """Make every component known, which importing mmkd has done by now, and set the default scope.

    The scope is ``mmseg``, not ``mmkd``: mmkd's configs are mmseg configs whose own parts carry the
    prefix ``mmkd.``.

    Args:
        init_default_scope: whether to set the default scope at all.
    """
    if init_default_scope:
        from mmengine.registry import init_default_scope as set_default_scope  # not for help alone

        set_default_scope('mmseg')
