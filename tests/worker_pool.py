"""Beam's worker pool, bound to one address: `python worker_pool.py ADDRESS --service_port=50000`.

`worker_pool_main` listens on every address. One machine that plays several hosts gives each its
own loopback address, and a pool that answered on the others would not be that host's pool.
"""

import sys

import grpc
from apache_beam.runners.worker import worker_pool_main


def main(address: str, argv: list[str]) -> None:
    real = grpc.server

    def bound_server(*args, options=(), **kwargs):
        server = real(*args, options=[*options, ("grpc.so_reuseport", 0)], **kwargs)
        listen = server.add_insecure_port
        server.add_insecure_port = lambda where: listen(where.replace("[::]", address))
        return server

    grpc.server = bound_server
    worker_pool_main.main(argv)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
