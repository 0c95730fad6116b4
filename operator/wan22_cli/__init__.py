"""The command line: ``wan22`` calls a service by its URL, ``kubectl wan22`` one on a cluster."""
