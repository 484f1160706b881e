"""How far each id came in a funnel: settings in, SQL out.

Nothing here knows of WebAssembly, so that `python3 -m unittest` needs nothing but Python. `step.py` stands between this
module and Stepwell.
"""

import json
import re
from dataclasses import dataclass


@dataclass
class Stage:
    """A stage of the funnel."""

    name: str
    # SQL over the columns of an event.
    when: str


@dataclass
class With:
    """The step's `with:` block, as the schema in `description.json` lets it through."""

    ids: str
    into: str
    # SQL over the columns of an event: when it happened.
    time: str
    stages: list[Stage]

    @staticmethod
    def read(text):
        """Reads the settings. What no schema can say is checked here."""
        read = json.loads(text)
        stages = [Stage(**stage) for stage in read.pop("stages")]
        for at, stage in enumerate(stages):
            if stage.name in [before.name for before in stages[:at]]:
                raise Stop(
                    "two-stages", f'there are two stages "{stage.name}"', setting=f"/stages/{at}/name"
                )
        return With(**read, stages=stages)


@dataclass(frozen=True)
class Table:
    """A table's name. As text it is quoted where SQL needs it."""

    schema: str
    name: str

    def __str__(self):
        return f"{ident(self.schema)}.{ident(self.name)}"


@dataclass
class Relation:
    """A table that the step may name, and what the step that fills it said about it."""

    table: Table
    about: str


@dataclass
class Run:
    """What a step is told of the run, as far as this one needs it."""

    playbook: str
    dialect: str
    full_refresh: bool
    # The `source:` block; none if the workflow has none.
    source: dict | None
    relations: dict[str, Relation]

    def scratch(self, alias):
        """Returns the scratch table that the workflow calls `alias`."""
        prefix = self.relations["scratch"].table
        return Table(prefix.schema, prefix.name + alias)


@dataclass
class Statement:
    """A statement of the plan, with the tables that it reads and writes."""

    label: str
    sql: str
    reads: list[str]
    writes: list[str]


class Stop(Exception):
    """The step cannot go on. `setting` points at what is wrong below `with:`, `help` says what to do next."""

    def __init__(self, code, message, setting=None, help=None):
        super().__init__(message)
        self.code, self.message, self.setting, self.help = code, message, setting, help


def plan(run, settings):
    """Returns the statements that fill `into` with one row for each id."""
    if run.source is None:
        raise Stop(
            "no-source",
            "this step reads events, but the workflow has no source",
            help="Add a `source:` block with `events`, `batch`, `time` and `lookback`.",
        )
    ids = published(run, settings)
    key = [column["name"] for column in ids["key"]]
    taken = {*key, "first_time", "reached"}
    for at, stage in enumerate(settings.stages):
        if f"{stage.name}_at" in taken:
            raise Stop(
                "column-taken", f'"{stage.name}_at" is a column of the key', setting=f"/stages/{at}/name"
            )
    into = run.scratch(settings.into)
    # Postgres: a crash of the server may empty the table, since it ends the run as well.
    unlogged = "UNLOGGED " if run.dialect == "postgres" else ""
    select = "\n".join(funnel(run, settings, ids, key))
    reads = [
        str(run.scratch(settings.ids)),
        str(table(run.source["events"])),
        str(run.scratch(ids["batches"])),
        str(run.relations["manifest"].table),
    ]
    return [
        Statement(f"clear {into.name}", f"DROP TABLE IF EXISTS {into}", [], [str(into)]),
        Statement("funnel", f"CREATE {unlogged}TABLE {into} AS\n{select}", reads, [str(into)]),
        Statement(f"analyze {into.name}", f"ANALYZE {into}", [], [str(into)]),
    ]


def published(run, settings):
    """Returns what `collect-ids` published about the ids."""
    relation = run.relations.get(settings.ids)
    try:
        ids = json.loads(relation.about)
        # Where the manifest has no rows of old batches, these two stand together.
        ids |= ids.get("processed", {})
        if ids["key"] and ids["batches"] and not ids["contexts"]:
            return ids
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise Stop(
        "wrong-table",
        f'scratch table "{settings.ids}" is not one that this step can use',
        setting="/ids",
        help="Name ids that `collect-ids` collected by columns of the events themselves.",
    )


def funnel(run, settings, ids, key):
    """Yields the lines of the SELECT: one row for each id.

    A stage is reached at the earliest event that it holds for and that is not before the stage before it. Each one is a
    window over the rows of the one before, so they are nested as deep as there are stages.
    """
    partition = ", ".join(f"k{at}" for at in range(len(key)))
    last = len(settings.stages) - 1
    yield "SELECT"
    for at, name in enumerate(key):
        yield f"  k{at} AS {ident(name)},"
    yield "  min(source_time) AS first_time,"
    reached = " + ".join(f"(max(at_{at}) IS NOT NULL)::int" for at in range(last + 1))
    yield f"  {reached} AS reached,"
    for at, stage in enumerate(settings.stages):
        comma = "," if at < last else ""
        yield f"  max(at_{at}) AS {ident(stage.name + '_at')}{comma}"
    yield "FROM ("
    lines = list(events(run, settings, ids))
    for at in range(last + 1):
        after = f" AND occurred >= at_{at - 1}" if at else ""
        lines = [
            f"SELECT *, min(CASE WHEN is_{at}{after} THEN occurred END) OVER (PARTITION BY {partition}) AS at_{at}",
            "FROM (",
            *indented(lines),
            f") AS events_{at}",
        ]
    yield from indented(lines)
    yield ") AS funnel"
    yield f"GROUP BY {partition}"


def events(run, settings, ids):
    """Yields the lines of the SELECT of the ids' events: all of an id's, of processed and pending batches.

    That is what makes the table equal to a rebuild. Copies of an event need not be told apart: another one changes no
    minimum.
    """
    time = ident(run.source["time"])
    # The expressions stand in a subquery of their own, where a bare name can mean no column of another table; and on
    # lines of their own, so that a comment in one swallows nothing behind it.
    yield "SELECT " + ", ".join(f"e.k{at}" for at in range(len(ids["key"])))
    yield "  , e.source_time, e.occurred, " + ", ".join(f"e.is_{at}" for at in range(len(settings.stages)))
    yield f"FROM {run.scratch(settings.ids)} AS ids"
    yield "JOIN ("
    yield f"  SELECT e.{time} AS source_time,"
    columns = [(column["expression"], f"k{at}") for at, column in enumerate(ids["key"])]
    columns += [(settings.time, "occurred"), (run.source["batch"], "batch")]
    columns += [(stage.when, f"is_{at}") for at, stage in enumerate(settings.stages)]
    for at, (expression, name) in enumerate(columns):
        comma = "," if at + 1 < len(columns) else ""
        yield "    ("
        yield f"      {expression}"
        yield f"    ) AS {name}{comma}"
    yield f"  FROM {table(run.source['events'])} AS e"
    yield ") AS e"
    for at, column in enumerate(ids["key"]):
        yield f"  {'AND' if at else 'ON'} e.k{at} = ids.{ident(column['name'])}"
    bounded = ids["bounded"] and not ids.get("all")
    yield "  AND e.source_time >= ids.since" if bounded else "  AND e.source_time IS NOT NULL"
    pending = f"e.batch IN (SELECT batch FROM {run.scratch(ids['batches'])})"
    if run.full_refresh or ids.get("all"):
        yield f"WHERE {pending}"
    else:
        manifest = run.relations["manifest"].table
        processed = f"e.batch IN (SELECT batch FROM {manifest} WHERE playbook = {literal(run.playbook)})"
        yield f"WHERE ({pending}"
        if "folded" in ids:
            yield f"  OR e.batch < {literal(ids['folded'])}"
        yield f"  OR {processed})"


def indented(lines):
    return [f"  {line}" for line in lines]


def table(text):
    """Reads a table's name as the host writes it: `schema.name`, either part in quotes where SQL needs them."""
    parts = re.findall(r'"((?:[^"]|"")+)"|([^".]+)', text)
    schema, name = (quoted.replace('""', '"') or bare for quoted, bare in parts)
    return Table(schema, name)


def ident(name):
    """Quotes an identifier. Always: which words are reserved differs between databases."""
    return '"' + name.replace('"', '""') + '"'


def literal(text):
    """Quotes a text."""
    return "'" + text.replace("'", "''") + "'"
