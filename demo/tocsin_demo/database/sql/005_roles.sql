-- The role that Tocsin logs in as: it can read the alert views and nothing else.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tocsin') THEN
        CREATE ROLE tocsin LOGIN;
    END IF;
END
$$;
GRANT USAGE ON SCHEMA demo TO tocsin;
GRANT SELECT ON demo.organization_alert, demo.active_alerts, demo.rejected_events TO tocsin;
