-- Views: what is true now. A row exists while its condition holds.

-- A sliding window: an event counts from its own time until the window has passed. An event dated in the future waits for
-- its time; an event that comes too late never counts.
CREATE OR REPLACE VIEW demo.dim_deployments AS
SELECT organization,
       deployment_type,
       count(*)                    AS deployment_cnt,
       count(DISTINCT customer_id) AS customer_cnt,
       max(event_at)               AS last_event_at
FROM demo.customer_events
WHERE event_at <= now()
  AND event_at > now() - (SELECT span FROM demo.settings WHERE name = 'deployment_window')
GROUP BY organization, deployment_type;

-- One row per organization over all its deployment types. Customers can be summed over the types because each customer
-- has one type.
CREATE OR REPLACE VIEW demo.organization_alert AS
SELECT text 'deployment_spike'       AS alert_name,
       d.organization,
       o.severity,
       o.owner,
       sum(d.deployment_cnt)::bigint AS deployment_cnt,
       sum(d.customer_cnt)::bigint   AS customer_cnt
FROM demo.dim_deployments AS d
JOIN demo.organizations AS o USING (organization)
GROUP BY d.organization, o.severity, o.owner, o.threshold
HAVING sum(d.deployment_cnt) > o.threshold;
COMMENT ON VIEW demo.organization_alert IS 'One row per organization with a deployment spike now';

-- One row per rule and winning bid that it matches.
CREATE OR REPLACE VIEW demo.active_alerts AS
SELECT r.alert_name, b.auction_id, b.item_name, b.price, b.bidder, r.severity
FROM demo.auction_alerts AS r
CROSS JOIN LATERAL (
    SELECT auction_id, item AS item_name, amount AS price, bidder
    FROM demo.winning_bids
    WHERE item = r.item_name
      AND amount > r.price_above
      AND bid_at <= now()
      AND bid_at > now() - (SELECT span FROM demo.settings WHERE name = 'bid_window')
) AS b;
COMMENT ON VIEW demo.active_alerts IS 'Winning bids that match a rule of auction_alerts now';
