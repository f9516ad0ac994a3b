"""What tools do: launch, doctor, benchmark, demo, ensembles, robustness, report, metafiles."""
