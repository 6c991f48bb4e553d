"""Privacy: what leaves the house carries no person.

``keys`` makes pseudonyms, ``deidentify`` and ``deidentify_tree`` clean DICOM, ``pixels`` and ``faces`` clean what is
drawn or seen, ``sidecar`` cleans JSON, and ``audit`` searches everything for what must not be there. Import from the
modules: this file stays empty of code so that no heavy library loads by accident.
"""
