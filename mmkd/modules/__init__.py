"""Whatever has weights and is not a task model: connectors, critics."""
