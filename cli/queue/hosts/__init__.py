"""The jobs of `queue` on several servers at once: given by --server, or beside Dask's workers."""
