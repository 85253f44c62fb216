-- Each statement that may change a view notifies the channel of the view's name, so that a listener queries at once. Once
-- per statement, not per row; PostgreSQL delivers equal notifications of a transaction once.

CREATE OR REPLACE FUNCTION demo.notify_channels() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    channel text;
BEGIN
    FOREACH channel IN ARRAY TG_ARGV LOOP
        PERFORM pg_notify(channel, TG_TABLE_NAME);
    END LOOP;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER notify AFTER INSERT ON demo.customer_events
FOR EACH STATEMENT EXECUTE FUNCTION demo.notify_channels('organization_alert');

CREATE OR REPLACE TRIGGER notify AFTER INSERT ON demo.winning_bids
FOR EACH STATEMENT EXECUTE FUNCTION demo.notify_channels('active_alerts');

CREATE OR REPLACE TRIGGER notify AFTER INSERT ON demo.rejected_events
FOR EACH STATEMENT EXECUTE FUNCTION demo.notify_channels('rejected_events');

CREATE OR REPLACE TRIGGER notify AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON demo.organizations
FOR EACH STATEMENT EXECUTE FUNCTION demo.notify_channels('organization_alert');

CREATE OR REPLACE TRIGGER notify AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON demo.auction_alerts
FOR EACH STATEMENT EXECUTE FUNCTION demo.notify_channels('active_alerts');

CREATE OR REPLACE TRIGGER notify AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON demo.settings
FOR EACH STATEMENT EXECUTE FUNCTION demo.notify_channels('organization_alert', 'active_alerts');
