\ir variables.psql
-- Where things live, and who reads them. The cluster and the role have no IF NOT EXISTS: under psql, "already exists" is
-- all that a second run has to say.

CREATE CLUSTER :"cluster" (SIZE = :'cluster_size', REPLICATION FACTOR = 1);
COMMENT ON CLUSTER :"cluster" IS 'Computes the alert views, and serves their subscribers';
SET cluster = :"cluster";

CREATE SCHEMA IF NOT EXISTS :"schema";
COMMENT ON SCHEMA :"schema" IS 'Deployments and auctions: events in, alerts out';

CREATE ROLE :"role";
COMMENT ON ROLE :"role" IS 'Tocsin logs in as this: it may read the alert views and nothing else';
