"""What runs, in which order: flows, what deployments start, and the command line."""
