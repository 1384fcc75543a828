"""What is wrong with a value of config.py, in words for whoever writes it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["in_words"]


def in_words(item: "ErrorDetails") -> str:
    """Return what is wrong in the words of whoever writes config.py, not in those of its types."""
    kind, context = item["type"], item.get("ctx", {})
    name = str(item["loc"][-1]) if item["loc"] else ""
    if kind in {"tuple_type", "list_type"}:
        return f"{item['input']!r}; it must be a list{' of edges' if name == 'edges' else ''}, in [ and ]"
    if kind in {"model_type", "dict_type", "model_attributes_type"}:
        return f"{item['input']!r}; it must be names and values, in {{ and }}"
    words = {
        "bool_parsing": "it must be True or False",
        "bool_type": "it must be True or False",
        "extra_forbidden": "there is no such parameter",
        "float_parsing": "it must be a number, or ACU_ and a number",
        "float_type": "it must be a number, or ACU_ and a number",
        "greater_than": f"it must be more than {context.get('gt')}",
        "greater_than_equal": f"it must be {context.get('ge')} or more",
        "int_from_float": "it must be a whole number",
        "int_parsing": "it must be a whole number",
        "int_type": "it must be a whole number",
        "ip_v4_network": "it must be a network with its first address, such as 10.10.0.0/22",
        "less_than_equal": f"it must be {context.get('le')} or less",
        "literal_error": f"it must be {context.get('expected')}",
        "multiple_of": f"it must be a multiple of {context.get('multiple_of')}",
        "string_type": "it must be a text, in quotes",
    }
    if kind == "missing":
        return "it is missing"
    return f"{item['input']!r}; {words[kind]}" if kind in words else item["msg"]
