"""What tools do: launch runs, check configs, measure, report."""
