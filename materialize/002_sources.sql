\ir variables.psql
-- Events as bytes, so that no message can break a view: a source that decodes JSON or text itself fails for good at the
-- first message that is neither. Both topics must exist first; the producer creates them.

CREATE CONNECTION IF NOT EXISTS :"schema".broker
    TO KAFKA (BROKER :'broker', SECURITY PROTOCOL = 'PLAINTEXT');
COMMENT ON CONNECTION :"schema".broker IS 'The Kafka broker that the producer writes to';

CREATE SOURCE IF NOT EXISTS :"schema".customer_events_raw IN CLUSTER :"cluster"
    FROM KAFKA CONNECTION :"schema".broker (TOPIC :'events_topic')
    KEY FORMAT BYTES VALUE FORMAT BYTES
    INCLUDE PARTITION, OFFSET, TIMESTAMP AS received_at ENVELOPE NONE;
COMMENT ON SOURCE :"schema".customer_events_raw IS 'Deployments as received, undecoded; messages without a value are skipped';

CREATE SOURCE IF NOT EXISTS :"schema".winning_bids_raw IN CLUSTER :"cluster"
    FROM KAFKA CONNECTION :"schema".broker (TOPIC :'bids_topic')
    KEY FORMAT BYTES VALUE FORMAT BYTES
    INCLUDE PARTITION, OFFSET, TIMESTAMP AS received_at ENVELOPE NONE;
COMMENT ON SOURCE :"schema".winning_bids_raw IS 'Winning bids as received, undecoded; messages without a value are skipped';
