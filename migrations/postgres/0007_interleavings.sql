-- Who delivers an alert's firings: one owner at any time, until when by the clock of this database. The rows of the outbox
-- themselves are leased no more.
CREATE TABLE outbox_owners (
    alert_id bigint PRIMARY KEY,
    owner text NOT NULL,
    until_ms bigint NOT NULL
);

CREATE INDEX outbox_owners_by_owner ON outbox_owners (owner);

DROP INDEX outbox_leased;
ALTER TABLE outbox DROP COLUMN lease, DROP COLUMN leased_until_ms;

-- Every row dies soon, as those of the outbox do.
ALTER TABLE outbox_owners SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

-- Why a partition is not evaluated until an operator acts; NULL from the next checkpoint on.
ALTER TABLE partitions ADD COLUMN halted text;

-- When a promotion began, by the clock of this database. One that an older version began counts from now.
ALTER TABLE promotions ADD COLUMN begun_at_ms bigint NOT NULL DEFAULT 0;
UPDATE promotions SET begun_at_ms = (extract(epoch FROM clock_timestamp()) * 1000)::bigint;

-- Live bindings that have changed since evaluators last began with them. A reader of changes that has not come to their
-- beginning yet finds it here, since `revision` has moved on.
CREATE INDEX bindings_changed_since_armed ON bindings (armed_revision)
    WHERE armed_revision <> revision AND status IN ('active', 'quarantined');
