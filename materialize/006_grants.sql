\ir variables.psql
-- What Tocsin may do. A recreated view has lost its grants, so every run grants them again.

GRANT USAGE ON CLUSTER :"cluster" TO :"role";
GRANT USAGE ON SCHEMA :"schema" TO :"role";
GRANT SELECT ON :"schema".organization_alert, :"schema".active_alerts, :"schema".rejected_events TO :"role";
