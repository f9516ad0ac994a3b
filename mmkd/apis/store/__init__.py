"""Run teachers once over the iterations of a config, and write what objectives read of them."""

from mmkd.apis.store.run import store as store
