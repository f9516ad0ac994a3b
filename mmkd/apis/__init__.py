"""What the tools are made of: the steps from a config file to a run and to its results."""
