"""The template as a program of its own: `python -m deephotlink.pipelines.workers SOCKET PARENT`, descriptor and id."""

from __future__ import annotations

import logging
import sys
from multiprocessing.connection import Connection

if __name__ == "__main__":
    # As the command does, and before Beam is imported, which has something to say.
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)

    from ...transforms.media.children.sandbox import die_with_parent
    from .template import serve

    die_with_parent(int(sys.argv[2]))
    serve(Connection(int(sys.argv[1])))
