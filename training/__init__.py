"""A Wan pipeline small enough to ship: its data, its training and the reader that scores what it draws.

Read top-down: ``scenes`` says what there is to draw, ``prompts`` how people ask for it, ``clips`` draws it, ``reader``
says what a video shows, and ``autoencoder``, ``text`` and ``denoiser`` each train one part of the pipeline.
"""
