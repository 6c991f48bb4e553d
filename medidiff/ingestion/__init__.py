"""The parts of ingest: the heap, its index, series and images, the quality gate, the store, and the summary.

``medidiff.ingest`` is the use case that joins them. Import from the modules.
"""
