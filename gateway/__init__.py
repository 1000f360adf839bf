"""quantapay-gateway: REST in, QuantaPay out, the key kept."""

__version__ = "0.1.0"
