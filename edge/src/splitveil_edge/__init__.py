"""The device's side of a split model: encoder, fresh noise for every wire, and a client for the server that answers.

It needs numpy and onnxruntime only, and nothing of ``splitveil``.
"""

from .client import Answer, Client
from .errors import EdgeError, ServerError, UserError

__version__ = "0.2.0"
__all__ = ["Answer", "Client", "EdgeError", "ServerError", "UserError"]
