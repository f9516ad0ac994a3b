"""A report as one page for a browser, which needs no network and no other file."""

from mmkd.apis.page.run import add_flags as add_flags
from mmkd.apis.page.run import check_flags as check_flags
from mmkd.apis.page.run import write_files as write_files
