CREATE TABLE orders (order_id int PRIMARY KEY, country text, state text, amount numeric, items int, paid boolean);
INSERT INTO orders VALUES
  (1, 'de', 'open', 12.50, 2, true), (2, 'de', 'open', 7.25, 1, false), (3, 'fr', 'late', 40, 9, true),
  (4, 'fr', 'open', NULL, 3, true), (5, NULL, 'late', 5, 1, false);
CREATE TABLE queues (name text, waiting bigint, working bigint, oldest double precision);
INSERT INTO queues VALUES ('mail "de"', 12, 3, 61.5), ('push\sms', 0, 0, 0.25), ('grün', 5000000000, 1, 1e-7);
CREATE TABLE settings (k text, v text);
INSERT INTO settings VALUES ('version', '2026.11'), ('region', 'eu');
