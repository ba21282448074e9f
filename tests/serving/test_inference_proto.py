"""The messages of gRPC: the generated file, the .proto, and the public protocol agree."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from splitveil.serving import inference_pb2 as pb
from splitveil.serving import rpc

PROTO = Path(str(pb.__file__)).with_name("inference.proto")
SCALARS = {"bool": 8, "int64": 3, "uint64": 4, "double": 1, "float": 2, "string": 9, "bytes": 12, "uint32": 13}
MESSAGE = 11


def read_proto(text):
    """Return the fields of each message of a file: ``(number, name, type, many)``, a map as its entries."""
    found, path = {}, []
    for line in re.sub(r"//.*", "", text).splitlines():
        if opened := re.match(r"\s*(message|oneof|service) (\w+) \{(\})?", line):
            if opened[1] == "message":
                found[".".join([*(name for kind, name in path if kind == "message"), opened[2]])] = set()
            path += [] if opened[3] else [(opened[1], opened[2])]
        elif line.strip() == "}":
            path.pop()
        elif field := re.match(r"\s*(repeated )?(map<[^>]+>|\w+) (\w+) = (\d+);", line):
            message = ".".join(name for kind, name in path if kind == "message")
            many = bool(field[1]) or field[2].startswith("map")
            found[message].add((int(field[4]), field[3], SCALARS.get(field[2], MESSAGE), many))
    return found


def described(message, prefix=""):
    """Return the same of a message's descriptor."""
    fields = {(one.number, one.name, one.type, one.is_repeated) for one in message.fields}
    found = {prefix + message.name: fields}
    for inner in message.nested_types:
        if not inner.GetOptions().map_entry:
            found |= described(inner, f"{prefix}{message.name}.")
    return found


def test_the_generated_file_belongs_to_the_proto():
    text, found = PROTO.read_text("utf-8"), {}
    for message in pb.DESCRIPTOR.message_types_by_name.values():
        found |= described(message)
    assert found == read_proto(text)
    assert pb.DESCRIPTOR.package == "inference"
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    methods = {(one.name, one.input_type.name, one.output_type.name) for one in service.methods}
    assert methods == set(re.findall(r"rpc (\w+)\((\w+)\) returns \((\w+)\);", text))
    assert service.full_name == rpc.SERVICE
    entry = pb.ModelInferRequest.DESCRIPTOR.fields_by_name["parameters"].message_type
    assert entry is not None
    value = entry.fields_by_name["value"].message_type
    assert value is not None
    assert value.full_name == "inference.InferParameter"


def test_the_proto_has_the_numbers_of_the_public_protocol():
    """tritonclient has the public file, with more than our part of it."""
    public = pytest.importorskip("tritonclient.grpc.service_pb2").DESCRIPTOR
    for name, message in pb.DESCRIPTOR.message_types_by_name.items():
        theirs = described(public.message_types_by_name[name])
        for inner, fields in described(message).items():
            assert fields <= theirs[inner], inner


def test_the_messages_leave_the_names_to_other_libraries():
    code = (
        "from splitveil.serving import inference_pb2 as ours\n"
        "from google.protobuf import descriptor_pb2, descriptor_pool\n"
        "file = descriptor_pb2.FileDescriptorProto(name='other.proto', package='inference')\n"
        "file.message_type.add(name='ModelInferRequest')\n"
        "descriptor_pool.Default().AddSerializedFile(file.SerializeToString())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
