#!/usr/bin/env bash
# amtool 0.35.0
#
# Behaviour: `amtool silence add` takes a first argument that it cannot parse for the name of an alert, and makes a silence of
# alertname="<the whole argument>", with exit status 0. Two matchers in one argument, as in alertmanager.yml, are such a case;
# so is an expression that is not valid. The same text as the second argument is an error.
#
# Why it matters: the silence exists, is listed, and holds nothing back; a maintenance begins and everyone is paged. A command
# for silences should refuse what it cannot read, whichever argument it is.
#
# Guess: exit status 1 with the parser's error, in each place.
#
# Seen:
#   0 'customer="A",severity="warning"' became alertname="customer=\"A\",severity=\"warning\""
#   0 'customer=~"A("' became alertname="customer=~\"A(\""
#   1 'severity=warning' 'customer=~"A("'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
GOBIN="$folder" go install github.com/prometheus/alertmanager/cmd/amtool@v0.35.0
python3 - "$folder/amtool" <<'PY'
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

made = []


class Alertmanager(BaseHTTPRequestHandler):
    """Takes every silence."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        made.extend((one["name"], one["value"]) for one in json.loads(body)["matchers"])
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"silenceID": "1"}')

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Alertmanager)
threading.Thread(target=server.serve_forever, daemon=True).start()
same = True
for expected, matchers in [(0, ['customer="A",severity="warning"']), (0, ['customer=~"A("']), (1, ["severity=warning", 'customer=~"A("'])]:
    made.clear()
    url = f"--alertmanager.url=http://127.0.0.1:{server.server_port}"
    status = subprocess.run([sys.argv[1], url, "silence", "add", "-c", "work", *matchers], capture_output=True).returncode
    shown = " ".join(f"'{one}'" for one in matchers)
    print(status, shown, *(f"became {name}={json.dumps(value)}" for name, value in made))
    same &= status == expected and made == ([] if status else [("alertname", matchers[0])])
sys.exit(not same)
PY
