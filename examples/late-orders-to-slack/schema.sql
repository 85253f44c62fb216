CREATE TABLE orders (
  id int PRIMARY KEY,
  customer text NOT NULL,
  promised_at timestamptz NOT NULL,
  delivered_at timestamptz
);

CREATE VIEW late_orders AS
SELECT id AS order_id, customer, floor(extract(epoch FROM now() - promised_at) / 60)::int AS minutes
FROM orders
WHERE delivered_at IS NULL AND promised_at < now();

CREATE FUNCTION notify_orders() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NOTIFY orders;
  RETURN NULL;
END
$$;
CREATE TRIGGER notify_orders AFTER INSERT OR UPDATE OR DELETE ON orders EXECUTE FUNCTION notify_orders();
