-- When the last event of a route came. An insert is not in it: what waits is few, and is looked through.
create index delivery_route on delivery (route, received_at) where settled_at is not null;
