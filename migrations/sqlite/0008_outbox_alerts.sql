-- Whose firing it is: who leases must pass over alerts of which another deliverer has a firing, and firings are too many to
-- be asked for each.
ALTER TABLE outbox ADD COLUMN alert_id INTEGER NOT NULL DEFAULT 0;

UPDATE outbox SET alert_id = (SELECT f.alert_id FROM firings f WHERE f.seq = outbox.seq);
