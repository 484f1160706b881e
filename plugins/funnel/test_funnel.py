"""`python3 -m unittest` in this folder; with BLESS=1 it writes the expected SQL anew. Read it before you commit it."""

import dataclasses
import json
import os
import pathlib
import unittest

import funnel

HERE = pathlib.Path(__file__).parent

SETTINGS = {
    "ids": "visitor_day_ids",
    "into": "funnel",
    "time": "derived_tstamp",
    "stages": [
        {"name": "viewed", "when": "event_name = 'page_view'"},
        {"name": "clicked", "when": "event_name = 'link_click' -- any link"},
        {"name": "sent", "when": "event_name = 'submit_form'"},
    ],
}
SOURCE = {"events": "atomic.events", "batch": "etl_tstamp", "time": "collector_tstamp"}
IDS = {
    "key": [
        {"name": "visitor", "expression": "domain_userid"},
        {"name": "day", "expression": "derived_tstamp::date"},
    ],
    "batches": "batches",
    "bounded": True,
    "contexts": [],
    "all": False,
}


def run(ids=IDS, **more):
    relations = {
        "scratch": funnel.Relation(funnel.Table("scratch", "shop__"), ""),
        "manifest": funnel.Relation(funnel.Table("derived", "manifest"), ""),
        "visitor_day_ids": funnel.Relation(
            funnel.Table("scratch", "shop__visitor_day_ids"), json.dumps(ids)
        ),
    }
    given = dict(
        playbook="shop", dialect="postgres", full_refresh=False, source=SOURCE, relations=relations
    )
    return funnel.Run(**(given | more))


def plan(run, settings=SETTINGS):
    return funnel.plan(run, funnel.With.read(json.dumps(settings)))


class Golden(unittest.TestCase):
    def check(self, name, statements):
        parts = []
        for statement in statements:
            parts.append(f"-- {statement.label}\n")
            parts += [f"--   reads {table}\n" for table in statement.reads]
            parts += [f"--   writes {table}\n" for table in statement.writes]
            parts.append(f"{statement.sql};\n\n")
        found, path = "".join(parts), HERE / "sql" / name
        if os.environ.get("BLESS"):
            path.write_text(found)
        self.assertEqual(path.read_text(), found)

    def test_later_run(self):
        self.check("later.postgres.sql", plan(run()))

    def test_manifest_without_rows_of_old_batches(self):
        published = {name: value for name, value in IDS.items() if name != "batches"}
        published["processed"] = {"batches": "batches", "folded": "2026-01-01 00:00:00"}
        self.check("folded.postgres.sql", plan(run(published)))

    def test_first_run(self):
        self.check("first.redshift.sql", plan(run(IDS | {"all": True}, dialect="redshift")))


class Mistakes(unittest.TestCase):
    def stop(self, *arguments):
        with self.assertRaises(funnel.Stop) as stopped:
            plan(*arguments)
        return stopped.exception

    def test_ids_of_another_step(self):
        for run_ in [run({"key": []}), run(IDS | {"contexts": ["page"]}), run("x")]:
            stop = self.stop(run_)
            self.assertEqual((stop.code, stop.setting), ("wrong-table", "/ids"))
        self.assertEqual(self.stop(run(), SETTINGS | {"ids": "none"}).code, "wrong-table")

    def test_no_source(self):
        self.assertEqual(self.stop(run(source=None)).code, "no-source")

    def test_two_stages_of_one_name(self):
        stages = SETTINGS["stages"] + [{"name": "viewed", "when": "true"}]
        stop = self.stop(run(), SETTINGS | {"stages": stages})
        self.assertEqual(stop.setting, "/stages/3/name")

    def test_a_stage_that_is_a_column_already(self):
        ids = IDS | {"key": [{"name": "viewed_at", "expression": "x"}]}
        self.assertEqual(self.stop(run(ids)).setting, "/stages/0/name")


class Names(unittest.TestCase):
    def test_names_are_quoted(self):
        self.assertEqual(str(funnel.table('atomic."My ""Events"""')), '"atomic"."My ""Events"""')
        self.assertEqual(str(funnel.table("atomic.events")), '"atomic"."events"')
        self.assertEqual(funnel.literal("it's"), "'it''s'")


class Description(unittest.TestCase):
    def test_it_describes_the_settings(self):
        described = json.loads((HERE / "description.json").read_text())["settings"]
        stages = described["properties"]["stages"]["items"]
        for schema, settings in [(described, funnel.With), (stages, funnel.Stage)]:
            names = [field.name for field in dataclasses.fields(settings)]
            self.assertEqual(list(schema["properties"]), names)
            self.assertEqual(schema["required"], names)


if __name__ == "__main__":
    unittest.main()
