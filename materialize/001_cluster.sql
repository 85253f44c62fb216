\ir variables.psql
-- The cluster that computes the views and serves their subscribers, the role that Tocsin logs in as, and the schema.
-- CREATE CLUSTER and CREATE ROLE have no IF NOT EXISTS: in a second run psql reports "already exists", which is harmless.

CREATE CLUSTER :"cluster" (SIZE = :'cluster_size', REPLICATION FACTOR = 1);
SET cluster = :"cluster";
CREATE ROLE :"role";
CREATE SCHEMA IF NOT EXISTS :"schema";
