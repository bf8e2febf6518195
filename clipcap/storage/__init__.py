"""Where files are, how they become final, and what is known about them."""
