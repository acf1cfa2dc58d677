"""Samples of several members: `.jpg` + `.cls` + `.json`, as `webdataset` writes them.

The fields of such a sample are its extensions. What an extension means:
https://github.com/webdataset/webdataset (`writer.make_handlers`, `autodecode.decoders`). A sample with a `.msgpack`
member is that member's map, and its other members are passed over, as every atdata implementation does.

Nothing here runs code from a shard: pickles and torch files stay bytes, `.npy` files of Python objects are refused.
"""

from __future__ import annotations

import builtins
import contextlib
import gzip
import io
import json
import lzma
import re
import struct
import types
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from numpy.typing import NDArray

from atdata.errors import SampleDecodeError
from atdata.samples import arrays, codec
from atdata.samples.decode import any_from_wire, explain, from_wire, wire_type
from atdata.samples.dictsample import DictSample
from atdata.samples.encode import Mismatch
from atdata.samples.fields import (
    AnyValue,
    Array,
    DateTime,
    DictOf,
    EnumOf,
    FieldType,
    ImageBytes,
    LiteralOf,
    OptionalOf,
    Primitive,
)
from atdata.samples.images import Image
from atdata.shards.grouping import RawSample

__all__ = ["decode_typed", "decode_untyped", "decoder"]

Payload = bytes | memoryview
Read = Callable[[Payload], Any]

_IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm")
_INTEGERS = ("cls", "cls2", "index", "inx", "id")
_TEXTS = ("txt", "text", "transcript")
_JSON = ("json", "jsn")
_MSGPACK = ("msgpack", "mp", "msg")

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_ZIP = b"PK\x03\x04"
# What a small compressed member may unpack to; a large one may take sixteen times its size.
_MAX_UNPACKED = 1 << 30
_MAX_LAYOUTS = 256


def decoder(sample_type: type) -> Callable[[RawSample], Any]:
    """A function from a sample as it lies in the archive to a sample of `sample_type`.

    Args:
        sample_type: a packable class, or `DictSample`.

    Returns:
        A function that raises `SampleDecodeError`, with key and offset, where a sample is not of that type.

    Raises:
        SchemaError: `sample_type` is not a sample type.
    """
    if isinstance(sample_type, type) and issubclass(sample_type, DictSample):
        return _decoder(sample_type.from_bytes, _untyped)
    return _typed(codec.plan(sample_type))


def _typed(plan: codec.Plan) -> Callable[[RawSample], Any]:
    # A field called msgpack wants the member of that name as its value, not as the sample.
    return _decoder(None if "msgpack" in plan.nodes else plan.decode, _Members(plan))


def _decoder(whole: Read | None, members: Callable[[RawSample], Any]) -> Callable[[RawSample], Any]:
    def decode(raw: RawSample) -> Any:
        try:
            if whole is not None and "msgpack" in raw[2]:
                return whole(raw[2]["msgpack"])
            return members(raw)
        except SampleDecodeError as error:
            error.at(key=raw.key, offset=raw.offset)
            raise

    return decode


def decode_typed(raw: RawSample, plan: codec.Plan) -> Any:
    """The sample in `raw`; `decoder` is the faster way for many.

    The fields of the class are the extensions; `seg_png` takes `.seg.png`, and `class_` takes `.class`. Each member is
    read as the declared type says:

    - `Image`, `bytes`: as it is;
    - arrays: `.npy`, an `.npz` of one array, or the pixels of an image;
    - `str`: UTF-8 text; `int`, `float`, `bool`, `datetime`, enums and literals: their text;
    - `dict[str, NDArray]`: `.npz`;
    - everything else: JSON, or msgpack where the extension says so.

    Raises:
        SampleDecodeError: a member is missing whose field has no default, is not what its field declares, or has no
            field.
    """
    return _typed(plan)(raw)


def decode_untyped(raw: RawSample) -> DictSample:
    """The sample in `raw`, each member read as its extension says; unknown ones, and pickles, stay bytes.

    Raises:
        SampleDecodeError: a member is not what its extension says.
    """
    sample: DictSample = _decoder(DictSample.from_bytes, _untyped)(raw)
    return sample


def _untyped(raw: RawSample) -> DictSample:
    _refuse_dotted_key(raw)
    values = {}
    for extension, payload in raw.parts.items():
        try:
            values[extension] = _by_extension(extension)(payload)
        except Mismatch as error:
            path = f"{extension}{error.path}"
            raise SampleDecodeError(f"{path}: {error.message}", field=path) from None
    return DictSample(values)


def _refuse_dotted_key(raw: RawSample) -> None:
    if all(extension.endswith(".msgpack") for extension in raw.parts):
        name = f"{raw.key}.{next(iter(raw.parts))}"
        raise SampleDecodeError(
            f"the key in {name!r} has a dot, so that readers take {raw.key!r} for the key and the rest for the "
            "extension; write the shard again with keys that have no dot in their last component"
        )


class _Members:
    """Reads samples of several members as one class."""

    def __init__(self, plan: codec.Plan) -> None:
        self._plan = plan
        self._cls = plan.cls
        self._fields = {_plain(f.name): f for f in plan.fields} | {f.name: f for f in plan.fields}
        # Which field takes which member, by how, worked out once for each set of extensions.
        self._layouts: dict[tuple[str, ...], list[tuple[str, str, Read]]] = {}

    def __call__(self, raw: RawSample) -> Any:
        parts = raw.parts
        layout = self._layouts.get(tuple(parts))
        if layout is None:
            layout = self._layout(raw)
        values = {}
        name = ""
        try:
            for name, extension, read in layout:
                values[name] = read(parts[extension])
        except Mismatch as error:
            raise self._error(name, error.message, error.path) from None
        return self._plan.make(values)

    def _layout(self, raw: RawSample) -> list[tuple[str, str, Read]]:
        chosen: dict[str, str] = {}
        extra = []
        for extension in raw.parts:
            field = self._fields.get(extension) or self._fields.get(_plain(extension))
            if field is None:
                extra.append(extension)
            elif field.name in chosen:
                raise self._error(field.name, f"both .{chosen[field.name]} and .{extension} are there")
            else:
                chosen[field.name] = extension
        if extra and not chosen:
            _refuse_dotted_key(raw)
        there = ", ".join(f".{extension}" for extension in raw.parts)
        for field in self._plan.fields:
            if field.name not in chosen and not field.has_default:
                raise self._error(field.name, f"missing; fields are the extensions of the members, which are {there}")
        if extra and not self._plan.ignore_unknown:
            raise self._error(extra[0], f"is not a field of the sample type; the sample's members are {there}")
        nodes = self._plan.nodes
        layout = [(name, extension, _by_type(nodes[name], extension)) for name, extension in chosen.items()]
        if len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
        self._layouts[tuple(raw.parts)] = layout
        return layout

    def _error(self, field: str, message: str, path: str = "") -> SampleDecodeError:
        path = f"{self._cls.__name__}.{field}{path}"
        return SampleDecodeError(f"{path}: {message}", field=path)


def _plain(name: str) -> str:
    """What a field name and an extension have in common: `seg.png` and `seg_png`, `class` and `class_`."""
    return re.sub(r"\W", "_", name.lower()).rstrip("_") or name


def _kind(extension: str) -> tuple[str, bool]:
    """The last component of an extension, and whether the member is gzipped (`json.gz`)."""
    gzipped = extension.endswith(".gz")
    return extension.removesuffix(".gz").rpartition(".")[2], gzipped


# -- by declared type ------------------------------------------------------------------------------------------------


def _by_type(node: FieldType, extension: str) -> Read:
    kind, gzipped = _kind(extension)
    read = _reader(node, kind)
    return (lambda payload: read(_gunzip(payload))) if gzipped else read


def _reader(node: FieldType, kind: str) -> Read:
    structured = kind in _JSON or kind in _MSGPACK
    match node:
        case OptionalOf(inner=ImageBytes() | Array() | Primitive(type=builtins.bytes)):
            return _reader(node.inner, kind)
        case OptionalOf() if not structured:
            return _reader(node.inner, kind)
        case ImageBytes():
            return _image
        case Primitive(type=builtins.bytes):
            return bytes
        case AnyValue():
            return _by_kind(kind)
        case Array():
            return _array(node, kind)
        case DictOf(value=Array() as item) if not structured:
            return _arrays(item)
    convert = _converter(node)
    if kind in _MSGPACK:
        return lambda payload: convert(_unpack(payload))
    if not structured and isinstance(node, Primitive | DateTime | EnumOf | LiteralOf):
        return lambda payload: convert(_scalar(node, _text(payload)))
    return lambda payload: convert(_json(payload))


def _converter(node: FieldType) -> Callable[[Any], Any]:
    """From what JSON or msgpack give to the field's value."""
    wire, finish = wire_type(node), from_wire(node)

    def convert(value: Any) -> Any:
        try:
            value = msgspec.convert(value, wire)
            return value if finish is None else finish(value)
        except msgspec.ValidationError as error:
            problem = explain(error, {})
            raise Mismatch(problem.message, problem.path) from None
        except RecursionError:
            raise Mismatch("nested too deeply to be a sample") from None

    return convert


def _scalar(node: FieldType, text: str) -> Any:
    """The value that `text` stands for, as msgpack would hold it."""
    word = text.strip()
    match node:
        case Primitive(type=builtins.str):
            return text
        case Primitive(type=builtins.int) if (number := _number(word)) is not None:
            return number
        case Primitive(type=builtins.float) if word.isascii() and "_" not in word:
            with contextlib.suppress(ValueError):
                return float(word)
        case Primitive(type=builtins.bool) if word.lower() in _TRUTH:
            return _TRUTH[word.lower()]
        case Primitive(type=types.NoneType) if word in ("", "null", "None"):
            return None
        case DateTime():
            return word
        case EnumOf():
            return _choice(node, (m.value for m in node.cls), word)
        case LiteralOf():
            return _choice(node, node.values, word)
    raise Mismatch(f"expected {node.name}, got the text {text!r:.100}")


def _number(word: str) -> int | None:
    if not _INTEGER.fullmatch(word):
        return None
    number = int(word)
    return number if -(2**63) <= number < 2**64 else None


def _choice(node: FieldType, values: Iterable[Any], word: str) -> Any:
    for value in values:
        if (
            str(value) == word
            or (type(value) is int and _number(word) == value)
            or (type(value) is bool and _TRUTH.get(word.lower()) is value)
        ):
            return value
    raise Mismatch(f"expected {node.name}, got the text {word!r:.100}")


def _array(node: Array, kind: str) -> Read:
    if kind in _MSGPACK:
        convert = _converter(node)
        return lambda payload: convert(_unpack(payload))

    def read(payload: Payload) -> NDArray[Any]:
        array = _any_array(payload, kind)
        if wrong := node.mismatch(array.dtype, array.shape):
            raise Mismatch(wrong)
        return array

    return read


def _any_array(payload: Payload, kind: str) -> NDArray[Any]:
    """An array out of what the payload is; its first bytes tell, where its extension does not."""
    head = bytes(payload[:16])
    if head.startswith(arrays.NPY_MAGIC):
        return _npy(payload)
    if head.startswith(_ZIP) or kind == "npz":
        found = _npz(payload)
        if len(found) != 1:
            raise Mismatch(f"expected one array, got an .npz of {len(found)}: {', '.join(found)}"[:300])
        return next(iter(found.values()))
    if kind in _IMAGES or Image(head).format is not None:
        return _pixels(payload)
    if kind in ("npy", *_JSON, *_TEXTS, *_INTEGERS):
        raise Mismatch(f"expected an array (.npy, .npz or an image), got {head!r:.40}")
    return _as_array(payload)


def _arrays(item: Array) -> Read:
    def read(payload: Payload) -> dict[str, NDArray[Any]]:
        found = _npz(payload)
        for name, array in found.items():
            if wrong := item.mismatch(array.dtype, array.shape):
                raise Mismatch(wrong, f"[{name!r}]")
        return found

    return read


# -- by extension ----------------------------------------------------------------------------------------------------


def _by_extension(extension: str) -> Read:
    kind, gzipped = _kind(extension)
    read = _by_kind(kind)
    return (lambda payload: read(_gunzip(payload))) if gzipped else read


def _by_kind(kind: str) -> Read:
    return _KINDS.get(kind, bytes)


def _image(payload: Payload) -> Image:
    return Image(bytes(payload))


def _pixels(payload: Payload) -> NDArray[Any]:
    try:
        return Image(bytes(payload)).decode()
    except ImportError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a damaged file leads them to
        reason = re.sub(r" <_io.*?>", "", str(error)).removeprefix("not a readable image: ")
        raise Mismatch(f"not a readable image: {reason}") from None


def _text(payload: Payload) -> str:
    try:
        return str(payload, "utf-8")
    except UnicodeDecodeError as error:
        raise Mismatch(f"text that is not UTF-8: {error.reason} at byte {error.start}") from None


def _integer(payload: Payload) -> int:
    value: int = _scalar(Primitive(int), _text(payload))
    return value


def _json(payload: Payload) -> Any:
    try:
        return msgspec.json.decode(payload)
    except RecursionError:
        raise Mismatch("JSON that is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    try:  # the standard library reads what it writes: NaN, Infinity, lone surrogates
        return json.loads(bytes(payload))
    except RecursionError:
        raise Mismatch("JSON that is nested too deeply") from None
    except ValueError as error:
        raise Mismatch(f"not JSON: {error}") from None


def _unpack(payload: Payload) -> Any:
    try:
        return msgspec.msgpack.decode(payload)
    except RecursionError:
        raise Mismatch("msgpack that is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise Mismatch(f"not msgpack: {error}") from None


def _unpack_any(payload: Payload) -> Any:
    try:
        return any_from_wire(_unpack(payload))
    except RecursionError:
        raise Mismatch("msgpack that is nested too deeply") from None


def _as_array(payload: Payload) -> NDArray[Any]:
    try:
        return arrays.array_from_bytes(payload)
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise Mismatch(str(error) or "not a readable array") from None


def _npy(payload: Payload) -> NDArray[Any]:
    if bytes(payload[:6]) != arrays.NPY_MAGIC:
        raise Mismatch("not a .npy array: its first bytes are others")
    return _as_array(payload)


def _npz(payload: Payload) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    limit = _unpacked_limit(payload)
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            entries = archive.infolist()
            total = sum(entry.file_size for entry in entries)
            if total > limit:
                raise Mismatch(f"an .npz of {len(payload)} bytes that says it unpacks to {total}, more than {limit}")
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                if name in found:
                    raise Mismatch(f"an .npz with two arrays {name!r:.100}")
                with archive.open(entry) as member:
                    data = _bounded(member, entry.file_size)
                try:
                    found[name] = _npy(data)
                except Mismatch as error:
                    raise Mismatch(error.message, f"[{name!r:.100}]") from None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, struct.error) as error:
        raise Mismatch(f"not a readable .npz: {error}") from None
    except (RuntimeError, NotImplementedError, ValueError, OverflowError) as error:  # encrypted, unknown methods
        raise Mismatch(f"not a readable .npz: {error}") from None
    return found


def _bounded(stream: Any, limit: int) -> memoryview:
    """What `stream` gives, at most `limit` bytes; memory grows with what is there, not with what is claimed."""
    data = bytearray()
    while piece := stream.read(1 << 20):
        data += piece
        if len(data) > limit:
            raise Mismatch(f"unpacks to more than {limit} bytes")
    return memoryview(data).toreadonly()


def _unpacked_limit(payload: Payload) -> int:
    return max(_MAX_UNPACKED, 16 * len(payload))


def _gunzip(payload: Payload) -> memoryview:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(payload)) as stream:
            return _bounded(stream, _unpacked_limit(payload))
    except (OSError, EOFError, zlib.error) as error:
        raise Mismatch(f"not readable gzip: {error}") from None


_KINDS: Mapping[str, Read] = {
    **dict.fromkeys(_IMAGES, _image),
    **dict.fromkeys(_INTEGERS, _integer),
    **dict.fromkeys(_TEXTS, _text),
    **dict.fromkeys(_JSON, _json),
    **dict.fromkeys(_MSGPACK, _unpack_any),
    "npy": _npy,
    "npz": _npz,
}
