"""Malformed weights files: random mutations of valid small ones, at the level of bytes and of their structure.

As a program, `python tests/trainer/malformed_weights.py COUNT [SEED]` tries COUNT files: each must be read, or refused
by one line. The time of each is limited by a timer, and the whole by the caller.
"""

import io
import json
import pickle
import random
import signal
import struct
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from precompute.base.errors import UserError
from precompute.saliency import basnet, u2net
from trainer.model.encoders import load_any
from trainer.model.resnets import build_encoder
from trainer.model.weights import load_encoder

LIMIT_S = 60
Tensors = dict[str, torch.Tensor]
_ARRAYS: tuple[Callable[[Any], Any], ...] = (  # what an array of weights may become
    lambda a: np.float32(1),
    lambda a: a * np.nan,
    lambda a: a.astype(np.float64),
    lambda a: a[0],
    lambda a: a[:0],
)


def of_torch(content: Any, old: bool = False) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, _use_new_zipfile_serialization=not old)
    return out.getvalue()


def onnx_of(state: Tensors, drop: int = -1, strange: Callable[[Any], Any] | None = None) -> bytes:
    """The convolutions of a small network, in a graph; `strange` alters the weight number `drop`."""
    from onnx import helper, numpy_helper

    initializers, nodes = [], []
    weights = [(name, value) for name, value in state.items() if value.ndim == 4]
    for i, (name, value) in enumerate(weights):
        array = value.numpy()
        if i == drop and strange is not None:
            array = strange(array)
        initializers += [
            numpy_helper.from_array(array, name),
            numpy_helper.from_array(np.zeros(len(value), np.float32), name + "b"),
        ]
        nodes.append(helper.make_node("Conv", [f"x{i}", name, name + "b"], [f"x{i + 1}"], name=name))
    return helper.make_model(helper.make_graph(nodes, "g", [], [], initializers)).SerializeToString()


def strange_tensor(value: torch.Tensor, rng: random.Random) -> Any:
    """One value put in the place of a tensor."""
    return rng.choice(
        (
            lambda: value.to_sparse() if value.ndim else torch.zeros(()),
            lambda: value.to("meta"),
            lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
            lambda: torch.zeros(()),
            lambda: torch.zeros(0),
            lambda: torch.full_like(value.float(), float("nan")),
            lambda: value.to(torch.complex64),
            lambda: value.to(torch.int32),
            lambda: value.bool(),
            lambda: value.to(torch.float8_e5m2),
            lambda: torch.zeros(1).expand(value.shape or (1,)),
            lambda: torch.zeros(1).expand(9999, 3, 3, 3),
            lambda: value.unsqueeze(0),
            lambda: value[..., None],
            lambda: value.numpy(),
            lambda: np.array(["a"]),
            lambda: "text",
            lambda: None,
            lambda: [value],
            lambda: 3.5,
            lambda: torch.nn.Parameter(value.float()),
            lambda: value.t() if value.ndim == 2 else value.flip(0) if value.ndim else value,
            lambda: {"weight": value},
            lambda: -value,
            lambda: value.double() * 1e200,
            lambda: value.half(),
        )
    )()


def strange_content(state: Tensors, rng: random.Random) -> Any:
    """A dictionary that is not quite one of weights."""
    out: Any = dict(state)
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(list(out))
        match rng.randint(0, 4):
            case 0:
                del out[name]
            case 1:
                out[rng.choice(("", "conv1", "a.b", name + ".", "layer1", 7, ("x",), "é\0"))] = out.pop(name)
            case _:
                if isinstance(out[name], torch.Tensor) and not out[name].is_meta and out[name].layout is torch.strided:
                    out[name] = strange_tensor(out[name].detach(), rng)
    match rng.randint(0, 7):
        case 0:
            out["state_dict"] = out
        case 1:
            out = {
                rng.choice(("model", "net", "state_dict", "module", "x")): out,
                "arch": rng.choice(("resnet50", 3, {}, "é")),
            }
        case 2:
            out = {"schema": 1, "method": out, "config": rng.choice((None, {"arch": "resnet18"}, {"model": 3}, []))}
        case 3:
            for _ in range(rng.choice((3, 40, 400))):
                out = {"model": out}
        case 4:
            out = rng.choice((list(out.items()), [out], (), 3, None, "x", {"model": []}, {"state_dict": {"a": 1}}))
    return out


def strange_pickle(rng: random.Random) -> bytes:
    """A torch archive whose pickle is made by hand."""
    body = rng.choice(
        (
            b"\x80\x02}.",
            b"\x80\x02.",
            b"",
            b"\x80\x05\x95",
            b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.",
            b"\x80\x02]h\x00.",
            b"\x80\x02}q\x00(X\x01\x00\x00\x00ah\x00u.",
            b"\x80\x02ctorch\nTensor\n)\x81.",
            b"\x80\x02cbuiltins\nbytearray\nM\xff\xff\x85R.",
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
            b"\x80\x02cnumpy\nndarray\n)R}b.",
            b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R.",
            b"\x80\x02(((((((((((((((.",
            pickle.dumps({"a": 1}, 2),
            pickle.dumps({"a": {1, 2}}, 4),
        )
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/version", rng.choice((b"3\n", b"", b"-1", b"999999999999999999999")))
        if rng.random() < 0.5:
            archive.writestr("archive/byteorder", rng.choice((b"little", b"big", b"x")))
    return out.getvalue()


def strange_safetensors(data: bytes, rng: random.Random) -> bytes:
    """A file of safetensors whose header says something else."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    name = rng.choice([name for name in header if name != "__metadata__"])
    match rng.randint(0, 6):
        case 0:
            header[name]["shape"] = rng.choice(([], [0], [-1], [2**62, 4], [3, 3, 3], "x"))
        case 1:
            header[name]["dtype"] = rng.choice(("F8_E4M3", "I8", "BOOL", "F4", "X", None, "C64", "U16"))
        case 2:
            header[name]["data_offsets"] = rng.choice(([0, 0], [0, 2**60], [4, 0], [-4, 4], []))
        case 3:
            header["__metadata__"] = rng.choice(
                ({"arch": "resnet50", "config": "x"}, {"arch": "../x"}, {"arch": 3}, [], "x")
            )
        case 4:
            header = rng.choice(([], {}, {"a": {}}, 3))
        case 5:
            header[name + "x"] = header.pop(name)
        case 6:
            return struct.pack("<Q", rng.choice((0, 1, length - 1, length + 1, 2**63, len(data)))) + data[8:]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def strange_bytes(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 3, 20))):
        near = rng.choice((len(out), min(len(out), 3000)))
        at = rng.randrange(near) if rng.random() < 0.7 else max(len(out) - 1 - rng.randrange(3000), 0)
        match rng.randint(0, 3):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at : at + rng.randrange(64)] = rng.randbytes(rng.randrange(64))
            case 2:
                out[at : at + 512] = bytes(len(out[at : at + 512]))
            case 3:
                del out[at : at + rng.randrange(2000)]
        if not out:
            break
    return bytes(out[: rng.randrange(len(out))]) if out and rng.random() < 0.2 else bytes(out)


class Maker:
    """Malformed files from three small valid networks."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.encoder = build_encoder("resnet10w16").state_dict()
        self.onnx = {name: value for name, value in self.encoder.items() if value.ndim == 4}
        self.detector = {}
        for name, shape in u2net.published_shapes(u2net.Network(True)).items():
            self.detector[name] = torch.rand(shape)

    def one(self, rng: random.Random) -> tuple[str, bytes]:
        """The name of a file and its bytes."""
        state = rng.choice((self.encoder, self.detector))
        kinds: tuple[Callable[[], tuple[str, bytes]], ...] = (
            lambda: ("w.pth", of_torch(strange_content(state, rng), rng.random() < 0.2)),
            lambda: ("w.pth", of_torch(strange_content(state, rng), rng.random() < 0.2)),
            lambda: ("w.pth", strange_bytes(of_torch(state, rng.random() < 0.4), rng)),
            lambda: ("w.pth", strange_pickle(rng)),
            lambda: ("w.safetensors", strange_safetensors(save(state), rng)),
            lambda: (rng.choice(("w.safetensors", "w.pth")), strange_bytes(save(state), rng)),
            lambda: ("w.onnx", onnx_of(self.onnx, rng.randrange(12), rng.choice(_ARRAYS))),
            lambda: ("w.onnx", strange_bytes(onnx_of(self.onnx), rng)),
        )
        return rng.choice(kinds)()


def attempt(path: Path, rng: random.Random) -> str:
    """Reads a file as every kind of weights: "done" or the kinds of refusals. Any other exception comes through."""
    readers = [lambda: u2net.load(str(path)), lambda: basnet.load(str(path))]
    if path.suffix != ".onnx":
        readers += [
            lambda: load_encoder(path),
            lambda: load_any(path, rng.choice((None, "resnet10w16", "resnet18")), None),
        ]
    done = []
    for read in readers:
        try:
            read()
            done.append("done")
        except UserError as error:
            text = str(error)
            assert "\n" not in text, text
            assert "w." in text, text
            assert "weights_only=True" not in text, text
    return "done" if done else "refused"


def try_many(count: int, seed: int, folder: Path) -> Counter[str]:
    """Tries `count` files; an exception that is no refusal leaves the file in `folder`."""
    make, rng, outcomes = Maker(), random.Random(seed), Counter[str]()
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("no end")))
    for _ in range(count):
        name, data = make.one(rng)
        (folder / name).write_bytes(data)
        signal.alarm(LIMIT_S)
        outcomes[f"{name} {attempt(folder / name, rng)}"] += 1
        signal.alarm(0)
    return outcomes


if __name__ == "__main__":
    made = tempfile.mkdtemp()
    print(made, flush=True)
    print(json.dumps(try_many(int(sys.argv[1]), int((*sys.argv, "0")[2]), Path(made))))
