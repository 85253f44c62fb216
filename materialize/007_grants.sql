\ir variables.psql
-- What Tocsin may do. A view that is made anew has lost its grants, so these are given in every run.

GRANT USAGE ON CLUSTER :"cluster" TO :"role";
GRANT USAGE ON SCHEMA :"schema" TO :"role";
GRANT SELECT ON :"schema".organization_alert, :"schema".active_alerts, :"schema".rejected_events TO :"role";
