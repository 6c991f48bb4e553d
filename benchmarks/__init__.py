"""Side-by-side comparisons with peers. Each is one command that writes a CSV, a figure and a table."""
