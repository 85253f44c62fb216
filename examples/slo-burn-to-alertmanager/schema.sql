CREATE TABLE objectives (service text PRIMARY KEY, target numeric NOT NULL CHECK (target < 1));
CREATE TABLE requests (service text NOT NULL, minute timestamptz NOT NULL, total int NOT NULL, failed int NOT NULL);

-- Burn rate: the share of failed requests, divided by the share that the objective allows.
CREATE VIEW burn_rates AS
SELECT service, span.name AS span, sum(failed) / sum(total)::numeric / (1 - target) AS burn
FROM requests
JOIN objectives USING (service)
JOIN (
  VALUES ('5m', interval '5 minutes'), ('30m', interval '30 minutes'), ('1h', interval '1 hour'), ('6h', interval '6 hours')
) AS span (name, length) ON minute > now() - span.length
GROUP BY service, span.name, target;

CREATE VIEW slo_burn AS
SELECT DISTINCT ON (service) service, severity, round(long.burn, 1) AS burn
FROM (VALUES ('page', '1h', '5m', 14.4), ('ticket', '6h', '30m', 6)) AS rule (severity, long, short, threshold)
JOIN burn_rates AS long ON long.span = rule.long AND long.burn > threshold
JOIN burn_rates AS short USING (service)
WHERE short.span = rule.short AND short.burn > threshold
ORDER BY service, severity;
