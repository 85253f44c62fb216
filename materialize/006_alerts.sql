\ir variables.psql
-- What is so now. A row is there while its condition holds, and gone when it does not; time alone takes it away.

-- A sliding window: an event counts from its own time until the window has passed over it. What is dated in the future
-- waits; what comes too late never counts.
CREATE MATERIALIZED VIEW IF NOT EXISTS :"schema".dim_deployments IN CLUSTER :"cluster" AS
SELECT organization, deployment_type,
       count(*) AS deployment_cnt, count(DISTINCT customer_id) AS customer_cnt, max(event_at) AS last_event_at
FROM :"schema".fct_customer_events
WHERE mz_now() >= event_at AND mz_now() <= event_at + INTERVAL :'deployment_window'
GROUP BY organization, deployment_type;
COMMENT ON MATERIALIZED VIEW :"schema".dim_deployments IS 'Deployments within the window, by organization and type of deployment';

-- One row per organization, whatever its types of deployment; that is why the rules are cut down to one per organization
-- (the lowest threshold wins). Customers may be added up over the types because each keeps to one.
CREATE MATERIALIZED VIEW IF NOT EXISTS :"schema".organization_alert IN CLUSTER :"cluster" WITH (RETAIN HISTORY FOR :'history') AS
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
COMMENT ON MATERIALIZED VIEW :"schema".organization_alert IS 'One row per organization with a deployment spike now';

-- One row per rule and winning bid that it catches. "Above" means above: at the price itself the rule keeps quiet.
CREATE MATERIALIZED VIEW IF NOT EXISTS :"schema".active_alerts IN CLUSTER :"cluster" WITH (RETAIN HISTORY FOR :'history') AS
SELECT r.alert_name, b.auction_id, b.item_name, b.price, b.bidder, r.severity
FROM :"schema".auction_alerts AS r,
     LATERAL (SELECT auction_id, item AS item_name, amount AS price, bidder FROM :"schema".winning_bids
              WHERE item = r.item_name AND amount > r.price_above
                AND mz_now() >= bid_at AND mz_now() <= bid_at + INTERVAL :'bid_window') AS b;
COMMENT ON MATERIALIZED VIEW :"schema".active_alerts IS 'Winning bids that a rule of auction_alerts catches now';

-- What could not be read stands aside: the views go on, and somebody can look, or be told.
CREATE MATERIALIZED VIEW IF NOT EXISTS :"schema".rejected_events IN CLUSTER :"cluster" WITH (RETAIN HISTORY FOR :'history') AS
SELECT :'events_topic' AS topic, partition, "offset", reason, left(encode(data, 'escape'), 200) AS sample, received_at
FROM :"schema".customer_events_checked
WHERE reason IS NOT NULL AND mz_now() <= received_at + INTERVAL :'rejected_window'
UNION ALL
SELECT :'bids_topic' AS topic, partition, "offset", reason, left(encode(data, 'escape'), 200) AS sample, received_at
FROM :"schema".winning_bids_checked
WHERE reason IS NOT NULL AND mz_now() <= received_at + INTERVAL :'rejected_window';
COMMENT ON MATERIALIZED VIEW :"schema".rejected_events IS 'Events that could not be read lately, and why; a row each, so it can be an alert itself';
