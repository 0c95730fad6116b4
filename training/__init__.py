"""A Wan pipeline small enough to ship: its data, its training and the reader that scores its videos.

Read in this order: ``scenes`` lists the scenes, ``prompts`` phrases requests for them, ``clips`` draws them, ``reader``
recognises the scene of a video, and ``autoencoder``, ``text`` and ``denoiser`` each train one part of the pipeline.
"""
