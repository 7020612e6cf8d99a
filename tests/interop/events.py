"""Reads TensorBoard event files: record framing with masked CRC-32C, the few protobuf fields of scalars."""

import struct

TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    TABLE.append(byte)


def masked_crc(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return (crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF


def records(data):
    at = 0
    while at < len(data):
        (head,) = struct.unpack_from("<Q", data, at)
        body = data[at + 12 : at + 12 + head]
        crcs = struct.unpack_from("<I", data, at + 8) + struct.unpack_from("<I", data, at + 12 + head)
        if crcs != (masked_crc(data[at : at + 8]), masked_crc(body)):
            raise ValueError(f"the record at byte {at} has a wrong checksum")
        yield body
        at += 16 + head


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def fields(data):
    """{field number: [value, ...]} of one message; fixed-size and length-delimited values as bytes."""
    found, at = {}, 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        else:
            if key & 7 == 2:
                size, at = varint(data, at)
            else:
                size = {1: 8, 5: 4}[key & 7]
            value, at = data[at : at + size], at + size
        found.setdefault(key >> 3, []).append(value)
    return found


def read_scalars(path):
    """{tag: [(step, value), ...]}.

    Fields of Event: 2 step, 3 file_version, 5 summary; of Summary: 1 value; of Value: 1 tag, 2 simple_value.
    """
    scalars, first = {}, True
    with open(path, "rb") as file:
        data = file.read()
    for record in records(data):
        event = fields(record)
        if first and event.get(3) != [b"brain.Event:2"]:
            raise ValueError("the first record is no file version")
        first = False
        for summary in event.get(5, []):
            for value in map(fields, fields(summary).get(1, [])):
                (number,) = struct.unpack("<f", value[2][0])
                scalars.setdefault(value[1][0].decode(), []).append((event.get(2, [0])[0], number))
    return scalars
