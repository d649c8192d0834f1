"""The developer's and installer's commands; the Python ones run as modules of this package."""
