"""SplitVeil: split inference that keeps the picture on the device, and the attacks and bounds that test it.

Importing this package loads nothing heavy; take what you need from its modules.
"""

__version__ = "0.1.0"
