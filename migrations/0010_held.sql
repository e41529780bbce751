-- The deliveries that a limit holds back, which may be thousands: counting and waking them reads no other rows.
create index delivery_held on delivery (destination, route, last_error, received_at)
    where state = 'waiting' and last_error like 'held: %';
