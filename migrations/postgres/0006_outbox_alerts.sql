-- Whose firing it is: who leases must pass over alerts of which another deliverer has a firing, and firings are too many to
-- be asked for each.
ALTER TABLE outbox ADD COLUMN alert_id bigint NOT NULL DEFAULT 0;

UPDATE outbox SET alert_id = f.alert_id FROM firings f WHERE f.seq = outbox.seq;

-- It is a queue, of which every row dies soon.
ALTER TABLE outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
