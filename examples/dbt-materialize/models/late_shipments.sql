{{ config(materialized='materialized_view', retain_history='1hr') }}

SELECT shipments.id AS shipment_id, orders.customer, shipments.due_at
FROM {{ source('shop', 'shipments') }} AS shipments
JOIN {{ source('shop', 'orders') }} AS orders ON orders.id = shipments.order_id
WHERE shipments.arrived_at IS NULL AND mz_now() > shipments.due_at
