"""A valid example of any msgspec type, made from the type alone: every field there, every union's first member."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect

ITEMS = 2


def example_of(kind: Any) -> Any:
    """A value of `kind`, as `msgspec.to_builtins` would give it, with bytes left as they are."""
    return _value(inspect.type_info(kind), 0)


def encoded_example(kind: Any) -> bytes:
    """The same in msgpack; it decodes as `kind`."""
    data = msgspec.msgpack.encode(example_of(kind))
    msgspec.msgpack.decode(data, type=kind)
    return data


def _value(info: inspect.Type, depth: int) -> Any:
    match info:
        case inspect.StructType(fields=fields, array_like=array_like, tag=tag, tag_field=tag_field):
            values = {field.encode_name: _value(field.type, depth + 1) for field in fields}
            if array_like:
                return [*([tag] if tag is not None else []), *values.values()]
            return {**({tag_field: tag} if tag is not None else {}), **values}
        case inspect.DictType(key_type=key, value_type=value):
            return {_value(key, depth + 1): _value(value, depth + 1)}
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            return [_value(item, depth + 1)] * (ITEMS if depth < 4 else 0)
        case inspect.SetType(item_type=item) | inspect.FrozenSetType(item_type=item):
            return [_value(item, depth + 1)]
        case inspect.TupleType(item_types=items):
            return [_value(item, depth + 1) for item in items]
        case inspect.UnionType(types=types):
            return _value(next((each for each in types if not isinstance(each, inspect.NoneType)), types[0]), depth)
        case inspect.LiteralType(values=values):
            return values[0]
        case inspect.EnumType(cls=cls):
            return next(iter(cls)).value
        case inspect.Metadata(type=inner) | inspect.CustomType(cls=inner) if isinstance(inner, inspect.Type):
            return _value(inner, depth)
        case _:
            return _scalar(info)


def _scalar(info: inspect.Type) -> Any:
    match info:
        case inspect.IntType(ge=least):
            return max(1, int(least or 0))
        case inspect.FloatType(ge=least):
            return max(0.5, float(least or 0))
        case inspect.BoolType():
            return True
        case inspect.StrType():
            return "word"
        case inspect.BytesType():
            return b"\x01" * 32
        case _:
            return None
