\ir variables.psql
-- From bytes to typed rows, step by step. A cast that fails would break every view above it for good, so a CASE checks
-- the length, the bytes, the shape or the digits before each cast. An event that fails a check gets a reason, and ends
-- in rejected_events.

CREATE VIEW IF NOT EXISTS :"schema".events_raw AS
SELECT :'events_topic' AS topic, data, partition, "offset", received_at FROM :"schema".customer_events_raw
UNION ALL
SELECT :'bids_topic' AS topic, data, partition, "offset", received_at FROM :"schema".winning_bids_raw;
COMMENT ON VIEW :"schema".events_raw IS 'Events of both topics, undecoded';

-- Valid UTF-8 without NUL, which text cannot hold, and at most 64 KiB.
CREATE VIEW IF NOT EXISTS :"schema".events_text AS
SELECT CASE
           WHEN length(data) > 65536 THEN NULL
           WHEN encode(data, 'hex') ~ '^(?:0[1-9a-f]|[1-7][0-9a-f]|(?:c[2-9a-f]|d[0-9a-f])[89ab][0-9a-f]|e0[ab][0-9a-f][89ab][0-9a-f]|(?:e[1-9a-cef][89ab][0-9a-f]|ed[89][0-9a-f])[89ab][0-9a-f]|f0[9ab][0-9a-f](?:[89ab][0-9a-f]){2}|f[1-3](?:[89ab][0-9a-f]){3}|f48[0-9a-f](?:[89ab][0-9a-f]){2})*$'
           THEN convert_from(data, 'utf8')
       END AS body,
       topic, data, partition, "offset", received_at
FROM :"schema".events_raw;
COMMENT ON VIEW :"schema".events_text IS 'Events as text; body is NULL where it is not UTF-8, or too large';

-- One flat JSON object: no nesting, no escape that text cannot hold, no number that numeric cannot hold, and only the
-- white space of JSON (\s would accept more, and the cast would fail).
CREATE VIEW IF NOT EXISTS :"schema".events_json AS
SELECT CASE
           WHEN body ~ '^[ \x09\x0a\x0d]*\{[ \x09\x0a\x0d]*(?:"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u(?:0[1-9a-fA-F]|[1-9a-cA-CeEfF][0-9a-fA-F]|[dD][0-7])[0-9a-fA-F]{2}|u00[0-9a-fA-F][1-9a-fA-F]|u00[1-9a-fA-F]0|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*"[ \x09\x0a\x0d]*:[ \x09\x0a\x0d]*(?:"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u(?:0[1-9a-fA-F]|[1-9a-cA-CeEfF][0-9a-fA-F]|[dD][0-7])[0-9a-fA-F]{2}|u00[0-9a-fA-F][1-9a-fA-F]|u00[1-9a-fA-F]0|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*"|-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,9})?(?:[eE][+-]?[0-9])?|true|false|null)[ \x09\x0a\x0d]*(?:,[ \x09\x0a\x0d]*"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u(?:0[1-9a-fA-F]|[1-9a-cA-CeEfF][0-9a-fA-F]|[dD][0-7])[0-9a-fA-F]{2}|u00[0-9a-fA-F][1-9a-fA-F]|u00[1-9a-fA-F]0|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*"[ \x09\x0a\x0d]*:[ \x09\x0a\x0d]*(?:"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u(?:0[1-9a-fA-F]|[1-9a-cA-CeEfF][0-9a-fA-F]|[dD][0-7])[0-9a-fA-F]{2}|u00[0-9a-fA-F][1-9a-fA-F]|u00[1-9a-fA-F]0|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*"|-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,9})?(?:[eE][+-]?[0-9])?|true|false|null)[ \x09\x0a\x0d]*)*)?\}[ \x09\x0a\x0d]*$'
           THEN body::jsonb
       END AS event,
       topic, body, data, partition, "offset", received_at
FROM :"schema".events_text;
COMMENT ON VIEW :"schema".events_json IS 'Events as jsonb; event is NULL where it is not one flat object';

CREATE VIEW IF NOT EXISTS :"schema".customer_events_checked AS
SELECT customer_id, customer_name, deployment_type, organization, event_type, event_at,
       CASE
           WHEN length(data) > 65536    THEN 'larger than 65536 bytes'
           WHEN body IS NULL            THEN 'not UTF-8'
           WHEN event IS NULL           THEN 'not a flat JSON object'
           WHEN customer_id IS NULL     THEN 'customer_id is missing or invalid'
           WHEN deployment_type IS NULL THEN 'deployment_type is missing'
           WHEN organization IS NULL    THEN 'organization is missing'
           WHEN event_at IS NULL        THEN 'event_ts is missing or invalid'
           WHEN event_at > received_at::timestamptz + INTERVAL :'future_limit' THEN 'event_ts is in the future'
       END AS reason,
       topic, data, partition, "offset", received_at
FROM (
    SELECT CASE WHEN event->>'customer_id' ~ '^[0-9]{1,9}$' THEN (event->>'customer_id')::int END AS customer_id,
           event->>'customer_name' AS customer_name,
           event->>'deployment_type' AS deployment_type,
           event->>'organization' AS organization,
           event->>'event_type' AS event_type,
           CASE WHEN event->>'event_ts' ~ '^[0-9]{9,10}$' THEN to_timestamp((event->>'event_ts')::bigint) END AS event_at,
           event, topic, body, data, partition, "offset", received_at
    FROM :"schema".events_json
    WHERE topic = :'events_topic'
) AS e;
COMMENT ON VIEW :"schema".customer_events_checked IS 'Deployments with typed fields; reason says why one is rejected';

CREATE VIEW IF NOT EXISTS :"schema".fct_customer_events AS
SELECT customer_id, customer_name, deployment_type, organization, event_type, event_at, partition, "offset"
FROM :"schema".customer_events_checked
WHERE reason IS NULL
  AND mz_now() <= event_at + INTERVAL :'facts_window';
COMMENT ON VIEW :"schema".fct_customer_events IS 'Deployments, typed and bounded in time';

-- An amount is text, which keeps its cents; a JSON number is accepted too.
CREATE VIEW IF NOT EXISTS :"schema".winning_bids_checked AS
SELECT auction_id, item, amount, bidder, bid_at,
       CASE
           WHEN length(data) > 65536 THEN 'larger than 65536 bytes'
           WHEN body IS NULL         THEN 'not UTF-8'
           WHEN event IS NULL        THEN 'not a flat JSON object'
           WHEN auction_id IS NULL   THEN 'auction_id is missing or invalid'
           WHEN item IS NULL         THEN 'item is missing'
           WHEN amount IS NULL       THEN 'amount is missing or invalid'
           WHEN bid_at IS NULL       THEN 'bid_ts is missing or invalid'
           WHEN bid_at > received_at::timestamptz + INTERVAL :'future_limit' THEN 'bid_ts is in the future'
       END AS reason,
       topic, data, partition, "offset", received_at
FROM (
    SELECT CASE WHEN event->>'auction_id' ~ '^[0-9]{1,9}$' THEN (event->>'auction_id')::int END AS auction_id,
           event->>'item' AS item,
           CASE WHEN event->>'amount' ~ '^[0-9]{1,12}(?:\.[0-9]{1,9})?$' THEN (event->>'amount')::numeric END AS amount,
           event->>'bidder' AS bidder,
           CASE WHEN event->>'bid_ts' ~ '^[0-9]{9,10}$' THEN to_timestamp((event->>'bid_ts')::bigint) END AS bid_at,
           event, topic, body, data, partition, "offset", received_at
    FROM :"schema".events_json
    WHERE topic = :'bids_topic'
) AS e;
COMMENT ON VIEW :"schema".winning_bids_checked IS 'Winning bids with typed fields; reason says why one is rejected';

CREATE VIEW IF NOT EXISTS :"schema".winning_bids AS
SELECT auction_id, item, amount, bidder, bid_at, partition, "offset"
FROM :"schema".winning_bids_checked
WHERE reason IS NULL
  AND mz_now() <= bid_at + INTERVAL :'facts_window';
COMMENT ON VIEW :"schema".winning_bids IS 'Winning bids, typed and bounded in time';
