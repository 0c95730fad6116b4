"""Programs that the doctor runs inside pods: each is one file whose ``main`` returns what it found.

They arrive as text and need nothing of this package in the pod. Each says what it found and judges nothing.
"""
