SELECT shipments.id AS shipment_id, shipments.order_id
FROM {{ source('shop', 'shipments') }} AS shipments
LEFT JOIN {{ source('shop', 'orders') }} AS orders ON orders.id = shipments.order_id
WHERE orders.id IS NULL
