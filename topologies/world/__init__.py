"""A deterministic world: clock, network, disk and faults for machines that believe they are real."""
