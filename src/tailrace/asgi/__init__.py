"""Layer 5: a pipeline within an application that another ASGI server runs."""

from tailrace.asgi.life import Lifespan, lifespan

__all__ = ["Lifespan", "lifespan"]
