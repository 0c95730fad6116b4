"""Programs that the doctor runs in pods: each is one file whose ``main`` returns what it found, and judges nothing.

They are sent as text, so the pod needs nothing of this package.
"""
