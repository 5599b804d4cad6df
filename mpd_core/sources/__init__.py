"""Where a base comes from: a GGUF in a Python package, the hub, or a local folder.

``obtain.py`` turns what a pack names into a folder of safetensors; ``hub.py`` is the Hugging Face
hub's part of that, ``store.py`` the cache of what was converted.
"""
