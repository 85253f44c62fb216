-- Rules are rows: an UPDATE takes effect at once. Each table gets its first rows when it is created, and never again.

CREATE TABLE IF NOT EXISTS demo.settings (
    name text     PRIMARY KEY CHECK (name IN ('deployment_window', 'bid_window')),
    span interval NOT NULL CHECK (span > interval '0')
);
INSERT INTO demo.settings (name, span)
VALUES ('deployment_window', interval '2 minutes'), ('bid_window', interval '5 minutes')
ON CONFLICT (name) DO NOTHING;

CREATE TABLE IF NOT EXISTS demo.organizations (
    organization text    PRIMARY KEY,
    owner        text    NOT NULL,
    severity     text    NOT NULL,
    threshold    integer NOT NULL,
    email        text    NOT NULL
);
INSERT INTO demo.organizations (organization, owner, severity, threshold, email)
SELECT *
FROM (VALUES
    ('A', 'team-a', 'critical', 5, 'team-a@example.com'),
    ('B', 'team-b', 'warning',  5, 'team-b@example.com'),
    ('C', 'team-c', 'warning',  5, 'team-c@example.com'),
    ('D', 'team-d', 'critical', 5, 'team-d@example.com')
) AS seed
WHERE NOT EXISTS (SELECT FROM demo.organizations);

CREATE TABLE IF NOT EXISTS demo.auction_alerts (
    alert_name  text    NOT NULL,
    item_name   text    NOT NULL,
    price_above numeric NOT NULL,
    severity    text    NOT NULL,
    PRIMARY KEY (alert_name, item_name)
);
INSERT INTO demo.auction_alerts (alert_name, item_name, price_above, severity)
SELECT *
FROM (VALUES
    ('expensive pizza', 'Best Pizza in Town', 90, 'warning'),
    ('all art',         'Custom Art',          0, 'info')
) AS seed
WHERE NOT EXISTS (SELECT FROM demo.auction_alerts);
