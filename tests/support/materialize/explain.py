"""What EXPLAIN answers: which objects the names of a statement refer to, and which cluster runs it.

Only what tells objects apart is as on a server; the rest of a plan is left out.
"""

import json

from support.materialize import sql
from support.materialize.catalog import Catalog, Cluster, Relation
from support.materialize.errors import unknown_cluster
from support.materialize.subscription import chosen


def raw_plan(catalog: Catalog, statement: sql.Explain, database: str) -> str:
    """The raw plan of a SELECT, as JSON. No privilege is asked for.

    Raises:
        ServerError: there is no such relation or column.
    """
    name = statement.relation
    relation = catalog.of_id(name[0]) if statement.by_id else catalog.find(name, database)
    plan: dict[str, object] = _get(relation)
    if statement.columns is not None:
        plan = {"Project": {"input": plan, "outputs": list(chosen(statement.columns, relation))}}
    return json.dumps(plan, indent=2)


def insights(catalog: Catalog, statement: sql.Insights, cluster: str) -> str:
    """The insights about a plan that reads nothing, as JSON: which cluster would run it.

    Raises:
        ServerError: there is no such cluster.
    """
    if not statement.computes:
        return json.dumps({"cluster": {"name": "mz_catalog_server", "id": {"System": 2}}}, indent=2)
    found: Cluster | None = catalog.clusters.get(cluster)
    if found is None:
        raise unknown_cluster(cluster)
    return json.dumps({"cluster": {"name": found.name, "id": {"User": found.number}}}, indent=2)


def _get(relation: Relation) -> dict[str, object]:
    number = int(relation.id.removeprefix("u"))
    return {"Get": {"id": {"Global": {"User": number}}, "typ": {"column_types": [], "keys": []}}}
