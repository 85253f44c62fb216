\ir variables.psql
-- What is true now: a row exists while its condition holds. Time alone removes rows.
--
-- ALTER ... RETAIN HISTORY fails where the server does not allow it (000_system.sql). The views work without it.

-- A sliding window: an event counts from its own time until the window has passed. An event dated in the future waits for
-- its time; an event that comes too late never counts.
CREATE MATERIALIZED VIEW IF NOT EXISTS :"schema".dim_deployments IN CLUSTER :"cluster" AS
SELECT organization, deployment_type,
       count(*) AS deployment_cnt, count(DISTINCT customer_id) AS customer_cnt, max(event_at) AS last_event_at
FROM :"schema".fct_customer_events
WHERE mz_now() >= event_at AND mz_now() <= event_at + INTERVAL :'deployment_window'
GROUP BY organization, deployment_type;
COMMENT ON MATERIALIZED VIEW :"schema".dim_deployments IS 'Deployments within the window, by organization and type of deployment';

-- One row per organization over all its deployment types, so of several rules for an organization only one counts: the
-- lowest threshold. Customers can be summed over the types because each customer has one type.
CREATE MATERIALIZED VIEW IF NOT EXISTS :"schema".organization_alert IN CLUSTER :"cluster" AS
SELECT 'deployment_spike' AS alert_name, d.organization, o.severity, o.owner,
       sum(d.deployment_cnt)::bigint AS deployment_cnt, sum(d.customer_cnt)::bigint AS customer_cnt
FROM :"schema".dim_deployments AS d
JOIN (
    SELECT DISTINCT ON (organization) organization, severity, owner, threshold
    FROM :"schema".organizations
    ORDER BY organization, threshold, severity, owner
) AS o ON o.organization = d.organization
GROUP BY d.organization, o.severity, o.owner, o.threshold
HAVING sum(d.deployment_cnt) > o.threshold;
ALTER MATERIALIZED VIEW :"schema".organization_alert SET (RETAIN HISTORY FOR :'history');
COMMENT ON MATERIALIZED VIEW :"schema".organization_alert IS 'One row per organization with a deployment spike now';

-- One row per rule and winning bid that it matches. `price_above` is exclusive: a bid at that price does not match.
CREATE MATERIALIZED VIEW IF NOT EXISTS :"schema".active_alerts IN CLUSTER :"cluster" AS
SELECT r.alert_name, b.auction_id, b.item_name, b.price, b.bidder, r.severity
FROM :"schema".auction_alerts AS r,
     LATERAL (SELECT auction_id, item AS item_name, amount AS price, bidder FROM :"schema".winning_bids
              WHERE item = r.item_name AND amount > r.price_above
                AND mz_now() >= bid_at AND mz_now() <= bid_at + INTERVAL :'bid_window') AS b;
ALTER MATERIALIZED VIEW :"schema".active_alerts SET (RETAIN HISTORY FOR :'history');
COMMENT ON MATERIALIZED VIEW :"schema".active_alerts IS 'Winning bids that match a rule of auction_alerts now';

-- Events that could not be read, so that someone can check them, or be alerted.
CREATE MATERIALIZED VIEW IF NOT EXISTS :"schema".rejected_events IN CLUSTER :"cluster" AS
SELECT topic, partition, "offset", reason, left(encode(data, 'escape'), 200) AS sample, received_at
FROM :"schema".customer_events_checked
WHERE reason IS NOT NULL AND mz_now() <= received_at + INTERVAL :'rejected_window'
UNION ALL
SELECT topic, partition, "offset", reason, left(encode(data, 'escape'), 200) AS sample, received_at
FROM :"schema".winning_bids_checked
WHERE reason IS NOT NULL AND mz_now() <= received_at + INTERVAL :'rejected_window';
ALTER MATERIALIZED VIEW :"schema".rejected_events SET (RETAIN HISTORY FOR :'history');
COMMENT ON MATERIALIZED VIEW :"schema".rejected_events IS 'Recent events that could not be read, and why; one row each, so this can be an alert too';
