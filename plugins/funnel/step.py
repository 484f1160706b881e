"""The step as Stepwell calls it: between `funnel.py` and the bindings that componentize-py makes of `sdk/wit`."""

import traceback

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import plans, types

import funnel


class Planning(exports.Planning):
    def next(self, run: types.RunInfo, answers: list[plans.Answer]) -> plans.Reply:
        try:
            statements = funnel.plan(read_run(run), funnel.With.read(run.settings_json))
        except funnel.Stop as stop:
            raise Err(
                types.Failure(stop.code, stop.message, stop.setting, stop.help, retryable=False)
            ) from stop
        except Exception as error:
            # A component that ends in an exception only traps, and nobody learns which one it was.
            raise Err(
                types.Failure("bug", traceback.format_exc().strip(), None, None, retryable=False)
            ) from error
        return plans.Reply_Ready(
            plans.Plan(
                statements=[written(statement) for statement in statements],
                atomic=True,
                publishes=[],
                notes=[],
                ends_run=None,
            )
        )


def read_run(run):
    relations = {
        relation.alias: funnel.Relation(funnel.Table(relation.schema, relation.name), relation.about)
        for relation in run.relations
    }
    return funnel.Run(
        playbook=run.playbook,
        dialect=run.dialect,
        full_refresh="full-refresh" in run.traits,
        source=funnel.json.loads(run.source_json),
        relations=relations,
    )


def written(statement):
    return plans.Statement(
        label=statement.label,
        sql=statement.sql,
        params=[],
        reads=statement.reads,
        writes=statement.writes,
        ends_run_when_zero=None,
        measure=None,
    )
