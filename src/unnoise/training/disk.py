"""The folder of a run is written by `unnoise.disk`."""

from ..disk import disk_errors, new_folder, remove_folder, sweep, sync, write_file

__all__ = ["disk_errors", "new_folder", "remove_folder", "sweep", "sync", "write_file"]
