"""llama.cpp's own HTTP server on loopback, as the package xllamacpp carries it: MODEL PORT [THREADS]."""

import sys
import time

import xllamacpp


def main() -> None:
    """Serve until killed."""
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.hostnames = ["127.0.0.1"]
    params.port = int(sys.argv[2])
    threads = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.n_parallel = 1
    params.n_ctx = 4096
    params.use_jinja = True
    params.ui = False
    server = xllamacpp.Server(params)
    print("listening", server.listening_address, flush=True)
    while True:
        time.sleep(3600)


main()
