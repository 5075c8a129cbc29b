"""Device monitoring beside the Mender update client."""

__version__ = "0.1.0"
