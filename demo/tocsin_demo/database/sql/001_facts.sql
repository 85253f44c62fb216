-- Facts: the events as received. Names and columns are those in Materialize, where a Kafka source fills them.

CREATE SCHEMA IF NOT EXISTS demo;

CREATE TABLE IF NOT EXISTS demo.customer_events (
    event_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id     integer     NOT NULL,
    customer_name   text,
    deployment_type text        NOT NULL,
    organization    text        NOT NULL,
    event_type      text,
    event_at        timestamptz NOT NULL,
    received_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS customer_events_event_at ON demo.customer_events (event_at);

CREATE TABLE IF NOT EXISTS demo.winning_bids (
    bid_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    auction_id  integer     NOT NULL,
    item        text        NOT NULL,
    amount      numeric     NOT NULL,
    bidder      text,
    bid_at      timestamptz NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS winning_bids_bid_at ON demo.winning_bids (bid_at);

-- Events that could not be read, with the reason.
CREATE TABLE IF NOT EXISTS demo.rejected_events (
    rejected_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic       text        NOT NULL,
    reason      text        NOT NULL,
    sample      text        NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS rejected_events_received_at ON demo.rejected_events (received_at);
