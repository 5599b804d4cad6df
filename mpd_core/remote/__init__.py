"""Experts on other machines: the next-token distributions of a completions server.

Over httpx and not the ``openai`` client, which judges of evaluation use: it reads JSON as Python
does, so a token that is listed twice would silently count once; it bounds neither the size of an
answer nor an attempt as a whole, and it follows redirects. What it would replace is the posting of
one request; every check of what came back would stay.
"""
