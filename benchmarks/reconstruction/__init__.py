"""Reconstruction of what physics did to a head: one command, a subcommand for each task."""
