"""Starts, watches and stops the children; holds the settings and the command line."""
