#!/bin/sh
# tritonclient 2.73.0 (HTTP): infer() writes into the dictionary of headers that it is given.
#
# With binary tensors the length of a request's JSON part travels as a header. The client adds this header to the
# caller's own dictionary. A dictionary with a token that is kept and given to every request, as one would write it, then
# holds the length of the last request: a request with other tensors overwrites it, a plain request of another program
# that uses the dictionary sends a length that is not its own, and threads that share it send each other's.
#
# Input: a server of some lines that accepts every request; one inference of three bytes with the headers
# {"authorization": "Bearer x"}.
#
# Seen with Python 3.11, numpy 2.4.6:
#   before: ['authorization']
#   after: ['authorization', 'Inference-Header-Content-Length']
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'tritonclient[http]==2.73.0' numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import tritonclient.http as triton

ANSWER = {"model_name": "m", "outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1.0]}]}


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(ANSWER).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = triton.InferenceServerClient(f"127.0.0.1:{server.server_port}")
asked = triton.InferInput("x", [1, 3], "UINT8")
asked.set_data_from_numpy(np.zeros((1, 3), np.uint8), binary_data=True)
headers = {"authorization": "Bearer x"}
print("before:", list(headers))
client.infer("m", [asked], headers=headers)
print("after:", list(headers))
sys.exit(0 if "Inference-Header-Content-Length" in headers else "the dictionary is left alone now")
END
