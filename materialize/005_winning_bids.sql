\ir variables.psql
-- From bytes to rows in guarded steps. A cast that fails would stop every view above it for ever, so each one stands in
-- a CASE that has looked before: at the length, at the bytes, at the shape, at the digits. What does not pass keeps its
-- place with a reason, and ends in rejected_events.

-- UTF-8 and nothing else, without NUL, which text cannot hold. Larger than 64 KiB is no event.
CREATE VIEW IF NOT EXISTS :"schema".winning_bids_text AS
SELECT CASE
           WHEN length(data) > 65536 THEN NULL
           WHEN encode(data, 'hex') ~ '^(?:0[1-9a-f]|[1-7][0-9a-f]|(?:c[2-9a-f]|d[0-9a-f])[89ab][0-9a-f]|e0[ab][0-9a-f][89ab][0-9a-f]|(?:e[1-9a-cef][89ab][0-9a-f]|ed[89][0-9a-f])[89ab][0-9a-f]|f0[9ab][0-9a-f](?:[89ab][0-9a-f]){2}|f[1-3](?:[89ab][0-9a-f]){3}|f48[0-9a-f](?:[89ab][0-9a-f]){2})*$'
           THEN convert_from(data, 'utf8')
       END AS body,
       data, partition, "offset", received_at
FROM :"schema".winning_bids_raw;
COMMENT ON VIEW :"schema".winning_bids_text IS 'Auctions won as text; body is NULL where it is not UTF-8, or too large';

-- One flat JSON object: no nesting, no escape that text cannot hold, no number that numeric cannot, and no white space
-- but that of JSON (a \s would let more pass, and the cast would fail).
CREATE VIEW IF NOT EXISTS :"schema".winning_bids_json AS
SELECT CASE
           WHEN body ~ '^[ \x09\x0a\x0d]*\{[ \x09\x0a\x0d]*(?:"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u(?:0[1-9a-fA-F]|[1-9a-cA-CeEfF][0-9a-fA-F]|[dD][0-7])[0-9a-fA-F]{2}|u00[0-9a-fA-F][1-9a-fA-F]|u00[1-9a-fA-F]0|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*"[ \x09\x0a\x0d]*:[ \x09\x0a\x0d]*(?:"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u(?:0[1-9a-fA-F]|[1-9a-cA-CeEfF][0-9a-fA-F]|[dD][0-7])[0-9a-fA-F]{2}|u00[0-9a-fA-F][1-9a-fA-F]|u00[1-9a-fA-F]0|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*"|-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,9})?(?:[eE][+-]?[0-9])?|true|false|null)[ \x09\x0a\x0d]*(?:,[ \x09\x0a\x0d]*"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u(?:0[1-9a-fA-F]|[1-9a-cA-CeEfF][0-9a-fA-F]|[dD][0-7])[0-9a-fA-F]{2}|u00[0-9a-fA-F][1-9a-fA-F]|u00[1-9a-fA-F]0|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*"[ \x09\x0a\x0d]*:[ \x09\x0a\x0d]*(?:"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u(?:0[1-9a-fA-F]|[1-9a-cA-CeEfF][0-9a-fA-F]|[dD][0-7])[0-9a-fA-F]{2}|u00[0-9a-fA-F][1-9a-fA-F]|u00[1-9a-fA-F]0|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*"|-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,9})?(?:[eE][+-]?[0-9])?|true|false|null)[ \x09\x0a\x0d]*)*)?\}[ \x09\x0a\x0d]*$'
           THEN body::jsonb
       END AS event,
       body, data, partition, "offset", received_at
FROM :"schema".winning_bids_text;
COMMENT ON VIEW :"schema".winning_bids_json IS 'Auctions won as jsonb; event is NULL where it is not one flat object';

-- Every bid with its fields, or with the reason why it is none. An amount comes as text, which keeps its cents; a JSON
-- number is as good.
CREATE VIEW IF NOT EXISTS :"schema".winning_bids_checked AS
SELECT auction_id, item, amount, bidder, bid_at,
       CASE
           WHEN length(data) > 65536 THEN 'larger than 65536 bytes'
           WHEN body IS NULL         THEN 'not UTF-8'
           WHEN event IS NULL        THEN 'not a flat JSON object'
           WHEN auction_id IS NULL   THEN 'auction_id is missing or not as agreed'
           WHEN item IS NULL         THEN 'item is missing'
           WHEN amount IS NULL       THEN 'amount is missing or not as agreed'
           WHEN bid_at IS NULL       THEN 'bid_ts is missing or not as agreed'
           WHEN bid_at > received_at::timestamptz + INTERVAL :'future_limit' THEN 'bid_ts is in the future'
       END AS reason,
       data, partition, "offset", received_at
FROM (
    SELECT CASE WHEN event->>'auction_id' ~ '^[0-9]{1,9}$' THEN (event->>'auction_id')::int END AS auction_id,
           event->>'item' AS item,
           CASE WHEN event->>'amount' ~ '^[0-9]{1,12}(?:\.[0-9]{1,9})?$' THEN (event->>'amount')::numeric END AS amount,
           event->>'bidder' AS bidder,
           CASE WHEN event->>'bid_ts' ~ '^[0-9]{9,10}$' THEN to_timestamp((event->>'bid_ts')::bigint) END AS bid_at,
           event, body, data, partition, "offset", received_at
    FROM :"schema".winning_bids_json
) AS e;
COMMENT ON VIEW :"schema".winning_bids_checked IS 'Auctions won with typed fields; reason says why one is rejected';

CREATE VIEW IF NOT EXISTS :"schema".winning_bids AS
SELECT auction_id, item, amount, bidder, bid_at, partition, "offset"
FROM :"schema".winning_bids_checked
WHERE reason IS NULL
  AND mz_now() <= bid_at + INTERVAL :'facts_window';
COMMENT ON VIEW :"schema".winning_bids IS 'Auctions won, typed and bounded in time';
