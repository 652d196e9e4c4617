-- Who delivers an alert's firings: one owner at any time, until when by the clock of this database. The rows of the outbox
-- themselves are leased no more.
CREATE TABLE outbox_owners (
    alert_id INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    until_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX outbox_owners_by_owner ON outbox_owners (owner);

DROP INDEX outbox_leased;
ALTER TABLE outbox DROP COLUMN lease;
ALTER TABLE outbox DROP COLUMN leased_until_ms;

-- Why a partition is not evaluated until an operator acts; NULL from the next checkpoint on.
ALTER TABLE partitions ADD COLUMN halted TEXT;

-- When a promotion began, by the clock of this database. One that an older version began counts from now.
ALTER TABLE promotions ADD COLUMN begun_at_ms INTEGER NOT NULL DEFAULT 0;
UPDATE promotions SET begun_at_ms = CAST(unixepoch('subsec') * 1000 AS INTEGER);

-- Live bindings that have changed since evaluators last began with them. A reader of changes that has not come to their
-- beginning yet finds it here, since `revision` has moved on.
CREATE INDEX bindings_changed_since_armed ON bindings (armed_revision)
    WHERE armed_revision <> revision AND status IN ('active', 'quarantined');
