"""Tasks in Redis, which is the only truth about what was accepted: their store, queue, leases and dispatchers.

This file imports nothing, so that the operator and the doctor can read the types here without Redis installed.
"""
