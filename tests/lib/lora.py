"""A tiny LoRA adapter for a GGUF model, written without any package: random numbers on one matrix, large enough that answers differ."""
import math
import random
import struct

STRING, ARRAY, UINT32, FLOAT32 = 8, 9, 4, 6
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def _read(path):
    """Architecture, and the shapes of the tensors."""
    with open(path, "rb") as f:
        def unpack(form):
            return struct.unpack("<" + form, f.read(struct.calcsize("<" + form)))

        def string():
            return f.read(unpack("Q")[0]).decode(errors="replace")

        def value(kind):
            if kind == STRING:
                return string()
            if kind != ARRAY:
                return f.read(SIZES[kind])
            element, count = unpack("IQ")
            return [string() for _ in range(count)] if element == STRING else f.read(SIZES[element] * count)
        assert f.read(4) == b"GGUF"
        _, tensors, pairs = unpack("IQQ")
        facts = {}
        for _ in range(pairs):
            key = string()
            facts[key] = value(unpack("I")[0])
        shapes = {}
        for _ in range(tensors):
            name = string()
            shapes[name] = unpack(f"{unpack('I')[0]}Q")
            unpack("IQ")
        return facts["general.architecture"], shapes


def write_adapter(model, path, seed=1, scale=0.2, tensor="blk.0.attn_q.weight"):
    """An adapter of rank 1 for the model."""
    architecture, shapes = _read(model)
    wide, high = shapes[tensor]
    rng = random.Random(seed)

    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()
    pairs = [("general.type", STRING, text("adapter")), ("general.architecture", STRING, text(architecture)), ("adapter.type", STRING, text("lora")),
             ("adapter.lora.alpha", FLOAT32, struct.pack("<f", 1.0))]
    numbers = {"lora_a": (wide, 1), "lora_b": (1, high)}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(numbers), len(pairs)) + b"".join(text(k) + struct.pack("<I", t) + v for k, t, v in pairs)
    data = b""
    for suffix, shape in numbers.items():
        head += text(f"{tensor}.{suffix}") + struct.pack("<I2QIQ", 2, *shape, 0, len(data))
        data += b"".join(struct.pack("<f", rng.gauss(0, 1) * scale) for _ in range(math.prod(shape)))
        data += bytes(-len(data) % 32)
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % 32) + data)
