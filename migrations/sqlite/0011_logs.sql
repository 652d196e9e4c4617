-- The log whose offsets everything here refers to: one row, which the first claim of a partition writes.
CREATE TABLE tick_log (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    identity TEXT NOT NULL,
    -- How many others were before it. Ids of firings have the log in them, but for those of the first.
    generation INTEGER NOT NULL,
    accepted_at_ms INTEGER NOT NULL
) STRICT;

-- The log of a checkpoint; of one from before there was this column, that is not known.
ALTER TABLE partitions ADD COLUMN log TEXT;
-- The log's generation when the partition was first evaluated in it.
ALTER TABLE partitions ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
-- Behind the last offset that a firing or a fault refers to: firings are ahead of checkpoints.
ALTER TABLE partitions ADD COLUMN referenced INTEGER NOT NULL DEFAULT 0;

UPDATE partitions SET referenced = max(
    (SELECT coalesce(max(f."offset") + 1, 0) FROM firings f WHERE f."partition" = partitions."partition"),
    (SELECT coalesce(max(f."offset") + 1, 0) FROM faults f WHERE f."partition" = partitions."partition"));
