#!/usr/bin/env python3
"""Keeps the servers of one HAProxy backend equal to a controller's endpoints, without a reload.

    follow.py --endpoints http://HOST:7445/v1/endpoints/NAMESPACE/NAME --backend BACKEND --socket PATH

Every second it reads the endpoints and what HAProxy has in its slots, and changes what differs through HAProxy's runtime
API. It remembers nothing, so that a restart of it, of HAProxy or of the coordinator needs no care. Where the endpoints
cannot be read, HAProxy keeps what it has. Needs Python 3.8 and nothing else; see docs/endpoints.md.
"""

import argparse
import json
import socket
import sys
import time
import urllib.error
import urllib.request

# How long one question to a coordinator or to HAProxy may take.
PATIENCE = 2.0
# Of srv_admin_state: maintenance or draining, for whatever reason.
OUT = 0x01 | 0x02 | 0x08 | 0x10
# Straight to the coordinator, whatever proxy the environment names.
WEB = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Trouble(Exception):
    """Said in the log; tried again at the next round."""


def read_endpoints(urls):
    """The Endpoints object, from the first of these coordinators that has it."""
    troubles = []
    for url in urls:
        try:
            with WEB.open(url, timeout=PATIENCE) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as e:
            troubles.append(f"{url}: {message(e)}")
        except (OSError, ValueError) as e:
            troubles.append(f"{url}: {e}")
    raise Trouble("the endpoints cannot be read, so HAProxy keeps what it has: " + "; ".join(troubles))


def message(error):
    """What a refusal says: a Status's message, else its HTTP status."""
    try:
        return json.load(error)["message"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"HTTP {error.code}"


def wanted(endpoints, port_name):
    """{(ip, port): pod} of what is ready."""
    found = {}
    for subset in endpoints.get("subsets", []):
        ports = [p for p in subset["ports"] if p.get("protocol", "TCP") == "TCP"]
        if port_name is not None:
            ports = [p for p in ports if p.get("name", "") == port_name]
        if len(ports) > 1:
            names = ", ".join(repr(p.get("name", "")) for p in ports)
            raise Trouble(f"the pods have more than one TCP port ({names}): say which one with --port NAME")
        for port in ports:
            for address in subset.get("addresses", []):
                found[address["ip"], port["port"]] = address["targetRef"]["name"]
    return found


class Haproxy:
    """One backend, through the runtime API."""

    def __init__(self, path, backend):
        self.path, self.backend = path, backend

    def ask(self, command):
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(PATIENCE)
                connection.connect(self.path)
                connection.sendall(command.encode() + b"\n")
                answer = b""
                while piece := connection.recv(65536):
                    answer += piece
        except OSError as e:
            raise Trouble(f"HAProxy at {self.path}: {e}") from e
        return answer.decode(errors="replace").strip()

    def slots(self):
        """{slot: (ip, port, whether it gets requests)}, in the order of the configuration."""
        lines = self.ask(f"show servers state {self.backend}").splitlines()
        header = next((line[2:].split() for line in lines if line.startswith("# ")), None)
        if header is None:
            raise Trouble(f"HAProxy at {self.path}: {' '.join(lines)}")
        slots = {}
        for line in lines:
            fields = dict(zip(header, line.split()))
            if len(fields) == len(header) and fields["be_name"] == self.backend:
                out = int(fields["srv_admin_state"]) & OUT
                slots[fields["srv_name"]] = (fields["srv_addr"], int(fields["srv_port"]), not out)
        return slots

    def take_out(self, slot):
        """New requests go elsewhere; those under way end in peace."""
        self.ask(f"set server {self.backend}/{slot} state maint")

    def put_in(self, slot, ip, port):
        self.take_out(slot)
        answer = self.ask(f"set server {self.backend}/{slot} addr {ip} port {port}")
        if "changed from" not in answer and "no need to change" not in answer:
            raise Trouble(f"{slot} does not take {ip}:{port}: {answer}")
        self.ask(f"set server {self.backend}/{slot} state ready")


def plan(slots, addresses):
    """(slots to take out, {slot: (ip, port)} to put in, addresses without a slot). A pod keeps its slot; a new one gets
    a slot that has been out before one that is taken out now."""
    keep, out, free = set(), [], []
    for slot, (ip, port, active) in slots.items():
        if active and (ip, port) in addresses and (ip, port) not in keep:
            keep.add((ip, port))
        elif active:
            out.append(slot)
        else:
            free.append(slot)
    missing = [address for address in addresses if address not in keep]
    put = dict(zip(free + out, missing))
    return [slot for slot in out if slot not in put], put, missing[len(put) :]


def follow(haproxy, urls, port_name):
    """One round; yields what it did."""
    addresses = wanted(read_endpoints(urls), port_name)
    out, put, left = plan(haproxy.slots(), addresses)
    # What left goes first: requests to it fail, while what came is only not used yet.
    for slot in out:
        haproxy.take_out(slot)
        yield f"{slot} out"
    troubles = []
    for slot, (ip, port) in put.items():
        try:
            haproxy.put_in(slot, ip, port)
            yield f"{slot} {ip}:{port} ({addresses[ip, port]})"
        except Trouble as e:
            troubles.append(str(e))
    if left:
        troubles.append(f"no slot for {len(left)} more pods: raise server-template in HAProxy's configuration")
    if troubles:
        raise Trouble("; ".join(troubles))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoints", action="append", required=True, metavar="URL", help="again for more coordinators")
    parser.add_argument("--backend", required=True, help="name in HAProxy's configuration")
    parser.add_argument("--socket", required=True, metavar="PATH", help="HAProxy's stats socket, of level admin")
    parser.add_argument("--port", metavar="NAME", help="name of the container port; needed where pods have several")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="between rounds (1)")
    args = parser.parse_args()
    haproxy = Haproxy(args.socket, args.backend)
    said = None
    while True:
        trouble = None
        try:
            for done in follow(haproxy, args.endpoints, args.port):
                print(f"{args.backend}: {done}", flush=True)
        except Trouble as e:
            trouble = str(e)
        except (KeyError, TypeError, ValueError) as e:
            trouble = f"unreadable endpoints: {e!r}"
        # Once, not every second.
        if trouble != said:
            print(f"{args.backend}: {trouble or 'well again'}", file=sys.stderr, flush=True)
            said = trouble
        time.sleep(args.interval)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
