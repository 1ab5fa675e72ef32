"""`unnoise decompress RUN FILE`: see compress.py."""

from .compress import run_decompress as run

__all__ = ["run"]
