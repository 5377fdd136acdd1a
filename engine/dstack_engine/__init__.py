"""The engine: provisions machines, runs jobs, forwards ports. It knows no notebook."""

__version__ = "0.1.0"
