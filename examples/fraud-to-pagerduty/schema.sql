CREATE TABLE payments (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  card text NOT NULL,
  country text NOT NULL,
  amount numeric(12, 2) NOT NULL,
  paid_at timestamptz NOT NULL DEFAULT now()
);

-- Two countries within ten minutes, or five payments.
CREATE VIEW suspicious_cards AS
SELECT card, count(*) AS payments, sum(amount) AS amount, string_agg(DISTINCT country, ', ') AS countries,
  CASE WHEN count(DISTINCT country) > 1 THEN 'critical' ELSE 'warning' END AS severity
FROM payments
WHERE paid_at > now() - interval '10 minutes'
GROUP BY card
HAVING count(DISTINCT country) > 1 OR count(*) >= 5;
