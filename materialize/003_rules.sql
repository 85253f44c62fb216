\ir variables.psql
-- Rules are rows: INSERT, UPDATE or DELETE them while everything runs, and the alerts follow at once. setup.py inserts the
-- first rows when it creates a table, and never again, even if someone deletes them all.
--
--   UPDATE demo.organizations SET threshold = 20 WHERE organization = 'B';
--   INSERT INTO demo.auction_alerts VALUES ('cheap art', 'Custom Art', 5, 'info');
--   DELETE FROM demo.auction_alerts WHERE alert_name = 'all art';

CREATE TABLE IF NOT EXISTS :"schema".organizations
    (organization text, owner text, severity text, threshold int, email text);
INSERT INTO :"schema".organizations
SELECT organization, owner, severity, threshold, email
FROM (VALUES
    ('A', 'team-a', 'critical', 5, 'team-a@example.com'),
    ('B', 'team-b', 'warning',  5, 'team-b@example.com'),
    ('C', 'team-c', 'warning',  5, 'team-c@example.com'),
    ('D', 'team-d', 'critical', 5, 'team-d@example.com')
) AS seed (organization, owner, severity, threshold, email)
WHERE NOT EXISTS (SELECT 1 FROM :"schema".organizations);
COMMENT ON TABLE :"schema".organizations IS 'Per organization: more deployments than the threshold are a spike; its severity, and who is notified';

CREATE TABLE IF NOT EXISTS :"schema".auction_alerts
    (alert_name text, item_name text, price_above numeric, severity text);
INSERT INTO :"schema".auction_alerts
SELECT alert_name, item_name, price_above, severity
FROM (VALUES
    ('expensive pizza', 'Best Pizza in Town', 90, 'warning'),
    ('all art',         'Custom Art',          0, 'info')
) AS seed (alert_name, item_name, price_above, severity)
WHERE NOT EXISTS (SELECT 1 FROM :"schema".auction_alerts);
COMMENT ON TABLE :"schema".auction_alerts IS 'Alert when this item sells for more than this price';
