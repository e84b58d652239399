"""SQL as text: named statements in ``.sql`` files, compiled once per schema name, when first used.

``-- name: x`` begins a statement; ``-- part: x`` a piece that statements and later parts of the file
share, each by a line ``-- include: x``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pgqueue.errors import ConfigError
from pgqueue.roles import ROLES

DEFAULT_SCHEMA = "pgqueue"
SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,47}")
_HEADER = re.compile(r"^-- (name|part): (\w+)\n", re.M)
_INCLUDE = re.compile(r"^-- include: (\w+)\n", re.M)
_COMMENT = re.compile(r"--[^\n]*\n")
_ROLE = re.compile(rf"\bpgqueue_({'|'.join(ROLES)})\b")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)\b")
# PostgreSQL's functions that statements call. Unqualified, a name is looked up on the caller's search_path, where whoever
# may create functions in public could put one that fits the argument types better.
FUNCTIONS = (
    "age", "array_agg", "array_cat", "array_remove", "array_to_string", "cardinality", "clock_timestamp", "concat_ws", "count", "current_database", "current_setting", "date_part",
    "format", "generate_series",
    "has_column_privilege", "has_function_privilege", "has_schema_privilege", "has_sequence_privilege",
    "has_table_privilege", "jsonb_agg", "jsonb_array_elements", "jsonb_build_object", "jsonb_object_agg",
    "jsonb_strip_nulls", "jsonb_to_record", "jsonb_to_recordset", "jsonb_typeof", "lag", "lead", "left", "length",
    "lower", "make_interval", "max", "md5", "min", "nextval", "now", "obj_description", "octet_length",
    "pg_backend_pid", "pg_column_size", "pg_current_xact_id_if_assigned", "pg_has_role", "pg_is_in_recovery", "pg_notification_queue_usage", "pg_notify", "pg_sequence_last_value",
    "pg_xact_status", "quote_ident",
    "random", "regexp_replace", "round", "row_number", "row_security_active", "set_config", "split_part", "string_agg", "strpos", "sum", "to_jsonb", "to_regclass",
    "to_regnamespace",
)  # fmt: skip
# With several arguments unnest is syntax, and only if it is not qualified: it then stands for PostgreSQL's own.
_FUNCTION = re.compile(rf"(?<![\w.:])((?:{'|'.join(FUNCTIONS)})\(|unnest\((?=[^(),]*\)))")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement in the three spellings of parameters that the drivers take."""

    name: str
    numbered: str  # $1: asyncpg, psycopg's RawCursor
    named: str  # :name, for SQLAlchemy's text()
    pyformat: str  # %(name)s: Django's cursors
    parameters: tuple[str, ...]
    encoded: bytes  # numbered, as psycopg takes it


def check_schema(name: str) -> str:
    """Return the schema name, or raise ConfigError if it is not a plain lower-case identifier."""
    if not isinstance(name, str) or not SCHEMA_NAME.fullmatch(name):
        raise ConfigError(
            f"schema name {name!r} is not usable: lower-case letters, digits and _, at most 48"
        )
    if name in ("public", "information_schema") or name.startswith("pg_"):
        raise ConfigError(
            f"pgqueue cannot live in the schema {name}: it needs one of its own, since its roles and a downgrade"
            " work on all that is in it; choose another name, such as pgqueue"
        )
    return name


def qualify(text: str, schema: str) -> str:
    """Put a schema name into SQL that is written for the schema ``pgqueue``."""
    check_schema(schema)
    if schema == DEFAULT_SCHEMA:
        return text
    # Quoted, since it may be a word of SQL, such as user.
    text = re.sub(r"\bpgqueue\.(?=[a-z_])", f'"{schema}".', text)
    text = re.sub(r"(schema (?:if not exists )?)pgqueue\b", rf'\g<1>"{schema}"', text)
    return text.replace("'pgqueue:'", f"'{schema}:'")


def script(name: str, *, schema: str, roles: str) -> str:
    """A whole script for an administrator, for one schema.

    Args:
        roles: what the names of the roles start with, in place of ``pgqueue_``.

    Raises:
        ConfigError: the schema name is not a plain identifier.
    """
    text = files(__package__).joinpath("scripts", f"{name}.sql").read_text("utf-8")
    return qualify(_ROLE.sub(rf"{roles}\1", text), schema)


def compile_statement(name: str, source: str) -> Statement:
    """Number the ``:name`` parameters in order of first use, and qualify PostgreSQL's own functions."""
    text = _FUNCTION.sub(r"pg_catalog.\1", _COMMENT.sub("\n", source).strip().rstrip(";"))
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    numbered = _PARAMETER.sub(number, text)
    return Statement(
        name,
        numbered,
        _PARAMETER.sub(r"(:\1)", text),
        _PARAMETER.sub(r"%(\1)s", text.replace("%", "%%")),
        tuple(names),
        numbered.encode(),
    )


class Statements(Mapping[str, Statement]):
    """The statements of one schema by name, each compiled when it is first asked for."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources
        self._compiled: dict[str, Statement] = {}

    def __getitem__(self, name: str) -> Statement:
        if name not in self._compiled:
            self._compiled[name] = compile_statement(name, self._sources[name])
        return self._compiled[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def load(schema: str = DEFAULT_SCHEMA) -> Mapping[str, Statement]:
    """Every statement by name, for one schema.

    Raises:
        ConfigError: the schema name is not a plain identifier.
    """
    return _load(schema)


@cache
def _load(schema: str) -> Statements:
    sources: dict[str, str] = {}
    for file in sorted(files(__package__).iterdir(), key=lambda f: f.name):
        if file.name.endswith(".sql"):
            for name, source in split(qualify(file.read_text("utf-8"), schema)).items():
                if name in sources:
                    raise ConfigError(f"two SQL statements are named {name}")
                sources[name] = source
    return Statements(sources)


def commands(script: str) -> list[str]:
    """The commands of a script of ours, one by one, as drivers that prepare what they send take them."""
    pieces = re.split(r"(--[^\n]*\n|'(?:[^']|'')*'|\$\$.*?\$\$|;)", script, flags=re.S)
    found = [""]
    for piece in pieces:
        if piece == ";":
            found.append("")
        elif not piece.startswith("--"):
            found[-1] += piece
    return [command.strip() for command in found if command.strip()]


def split(text: str) -> dict[str, str]:
    """The statements of a file by name, the parts they include written out."""
    _, *pieces = _HEADER.split(text)
    parts: dict[str, str] = {}
    statements: dict[str, str] = {}
    for kind, name, source in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True):
        whole = _INCLUDE.sub(lambda include: parts[include[1]], source)
        if kind == "part":
            parts[name] = whole.rstrip() + "\n"
        else:
            statements[name] = whole
    return statements
