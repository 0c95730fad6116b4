"""Tasks in Redis, the only record of which tasks were accepted: their store, queue, leases and dispatchers.

This file imports nothing, so that the operator and the doctor can read the types here without Redis installed.
"""
