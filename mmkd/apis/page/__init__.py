"""A report as one page for a browser, which needs no network and no other file."""

from mmkd.apis.page.run import write_files as write_files
