"""What samples and models say about the people they were learned from. Import from the modules.

``resemblance`` and ``likeness`` compare volumes, ``memorisation`` tells copies from chance, ``membership`` attacks,
``decision`` turns figures into outcomes, ``examine`` puts them together on arrays, and ``planting`` makes the
near-copies that prove it.
"""
