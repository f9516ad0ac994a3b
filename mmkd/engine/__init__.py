"""What a Runner is given: hooks, optimizers, loops, schedules."""
