"""What someone without a token is told by the ports of a host: python -m tests.stranger ADDRESS PORT ...

Prints a line of JSON for each answer: [port, question, answer]. A question is a path of HTTP's or a method of gRPC's.
"""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import grpc

# Of each of Ray's services one that would tell something, or change it.
METHODS = (
    "/ray.rpc.NodeInfoGcsService/CheckAlive",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.ActorInfoGcsService/GetAllActorInfo",
    "/ray.rpc.autoscaler.AutoscalerStateService/GetClusterStatus",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.RayletDriver/ClusterInfo",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.LogService/ListLogs",
    "/grpc.health.v1.Health/Check",
)
PATHS = ("/", "/metrics", "/nodes?view=summary", "/api/jobs/", "/api/healthz", "/api/local_raylet_healthz")


def main(address: str, *ports: str) -> None:
    for port in ports:
        asked = list(_http(f"http://{address}:{port}")) or list(_grpc(f"{address}:{port}"))
        for question, answer in asked:
            print(json.dumps([int(port), question, answer]))


def _http(url: str) -> Iterator[tuple[str, str]]:
    """Nothing where the port speaks something else."""
    for path in PATHS:
        try:
            with urllib.request.urlopen(url + path, timeout=5) as answer:
                yield path, f"{answer.status} {answer.read(30).decode()}"
        except urllib.error.HTTPError as error:
            yield path, str(error.code)
        except (OSError, urllib.error.URLError, ValueError):
            return
        except Exception as error:  # http.client has many for what is not HTTP
            if type(error).__module__ != "http.client":
                raise
            return


def _grpc(target: str) -> Iterator[tuple[str, str]]:
    with grpc.insecure_channel(target) as channel:
        for method in METHODS:
            ask = channel.unary_unary(method, request_serializer=None, response_deserializer=None)
            try:
                ask(b"", timeout=5)
                yield method, "OK"
            except grpc.RpcError as error:
                yield method, error.code().name


if __name__ == "__main__":
    main(*sys.argv[1:])
