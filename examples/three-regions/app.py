"""A small application: answers with its region, its tenant and its path. Usage: app.py REGION PORT"""

import http.server
import json
import sys

REGION, PORT = sys.argv[1], int(sys.argv[2])


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        answer = {"region": REGION, "tenant": self.headers.get("portolan-tenant"), "path": self.path}
        body = json.dumps(answer).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", PORT), App).serve_forever()
