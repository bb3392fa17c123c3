"""A client of Wharfinger that knows nothing but its .proto files and an admin.yaml.

    client.py --config admin.yaml --proto proto nodes
    client.py --config admin.yaml --proto proto scale NAME REPLICAS

`nodes` lists the nodes. `scale` sets a controller's count and watches its pods until as many are ready. The
messages are generated from the .proto files when it starts. docs/foreign-client.md explains each step; the end to
end test `foreign` runs it. Exit status 0 done, 1 refused or failed, with one line on standard error.
"""

import argparse
import importlib
import json
import pathlib
import sys
import tempfile
import uuid

import grpc
import yaml
from grpc_tools import protoc


class Failed(Exception):
    """One line for the user."""


def generate(proto: pathlib.Path, out: str) -> dict:
    """Makes the Python modules of all files below `proto` in `out`; returns them by name."""
    files = sorted(proto.glob("wharfinger/v1/*.proto"))
    if not files:
        raise Failed(f"--proto: no wharfinger/v1/*.proto below {proto}; give the repository's directory `proto`")
    arguments = ["protoc", f"-I{proto}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(arguments + [str(file) for file in files]) != 0:
        raise Failed(f"--proto: the files below {proto} do not compile")
    sys.path.insert(0, out)
    names = [f"{file.stem}_pb2{kind}" for file in files for kind in ("", "_grpc")]
    return {name: importlib.import_module(f"wharfinger.v1.{name}") for name in names}


def connect(config: dict, seconds: float) -> grpc.Channel:
    """Opens a channel to the first coordinator that answers and proves that it is the cluster's."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=config["ca"].encode(),
        private_key=config["key"].encode(),
        certificate_chain=config["certificate"].encode(),
    )
    options = [
        # A coordinator proves its cluster, not its address.
        ("grpc.ssl_target_name_override", f"coordinator.{config['cluster']}.wharfinger.internal"),
        # A large cluster's list is longer than the 4 MiB that are the default.
        ("grpc.max_receive_message_length", 512 << 20),
        # Without it a silent partner is never noticed.
        ("grpc.keepalive_time_ms", 10_000),
    ]
    for address in config["coordinators"]:
        channel = grpc.secure_channel(address, credentials, options)
        try:
            grpc.channel_ready_future(channel).result(timeout=seconds / len(config["coordinators"]))
            return channel
        except grpc.FutureTimeoutError:
            channel.close()
    raise Failed(f"no coordinator of cluster {config['cluster']} answers at {', '.join(config['coordinators'])}")


def is_ready(thing: dict) -> bool:
    """Whether a node or a pod has the condition Ready and is not being deleted."""
    conditions = thing.get("status", {}).get("conditions", [])
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and "deletionTimestamp" not in thing["metadata"]


def nodes(wire: dict, channel: grpc.Channel, seconds: float) -> None:
    resources = wire["resources_pb2_grpc"].ResourcesStub(channel)
    listed = resources.List(wire["resources_pb2"].ListRequest(kind="Node"), timeout=seconds)
    for item in listed.items:
        print(f"node {item.name} {'Ready' if is_ready(json.loads(item.json)) else 'NotReady'}")


def scale(wire: dict, channel: grpc.Channel, seconds: float, namespace: str, name: str, replicas: int) -> None:
    messages = wire["resources_pb2"]
    resources = wire["resources_pb2_grpc"].ResourcesStub(channel)
    controllers = wire["admin_pb2_grpc"].ControllersStub(channel)
    found = resources.Get(
        messages.GetRequest(kind="ReplicationController", namespace=namespace, name=name), timeout=seconds
    )
    selector = json.loads(found.json)["spec"]["selector"]
    pods = messages.ListRequest(
        kind="Pod", namespace=namespace, label_selector=",".join(f"{k}={v}" for k, v in sorted(selector.items()))
    )
    # A watch from the list's revision misses nothing that comes after it.
    listed = resources.List(pods, timeout=seconds)
    ready = {item.name for item in listed.items if is_ready(json.loads(item.json))}
    pods.resource_version = listed.resource_version
    events = resources.Watch(pods, timeout=seconds)

    reply = controllers.Scale(
        wire["admin_pb2"].ScaleRequest(
            kind="rc", namespace=namespace, name=name, replicas=replicas, request_id=str(uuid.uuid4())
        ),
        timeout=seconds,
    )
    print(f"scaled {name} from {reply.previous_replicas} to {reply.replicas}")
    while len(ready) != replicas:
        event = next(events)
        pod = event.object.name
        kind = messages.WatchEvent.Type.Name(event.type)
        if kind in ("ADDED", "DELETED"):
            print(f"{kind} {pod}")
        shown = json.loads(event.object.json) if event.object.json else None
        if kind != "DELETED" and shown and is_ready(shown):
            if pod not in ready:
                print(f"READY {pod} on {shown['spec']['nodeName']}")
            ready.add(pod)
        else:
            ready.discard(pod)
    events.cancel()
    print(f"{len(ready)} pods are ready")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=pathlib.Path, required=True, help="the cluster's admin.yaml")
    parser.add_argument("--proto", type=pathlib.Path, required=True, help="directory that holds wharfinger/v1")
    parser.add_argument("--timeout", type=float, default=60, help="seconds for each call (60)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("nodes")
    scaling = verbs.add_parser("scale")
    scaling.add_argument("name")
    scaling.add_argument("replicas", type=int)
    scaling.add_argument("--namespace")
    args = parser.parse_args()
    try:
        config = yaml.safe_load(args.config.read_text())
        with tempfile.TemporaryDirectory() as out:
            wire = generate(args.proto, out)
            with connect(config, args.timeout) as channel:
                if args.verb == "nodes":
                    nodes(wire, channel, args.timeout)
                else:
                    namespace = args.namespace or config.get("namespace") or "default"
                    scale(wire, channel, args.timeout, namespace, args.name, args.replicas)
    except grpc.RpcError as error:
        print(f"error: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    except (Failed, OSError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
