-- The log whose offsets everything here refers to: one row, which the first claim of a partition writes.
CREATE TABLE tick_log (
    only_one bigint PRIMARY KEY CHECK (only_one = 1),
    identity text COLLATE "C" NOT NULL,
    -- How many others were before it. Ids of firings have the log in them, but for those of the first.
    generation bigint NOT NULL,
    accepted_at_ms bigint NOT NULL
);

-- The log of a checkpoint; of one from before there was this column, that is not known.
ALTER TABLE partitions ADD COLUMN log text COLLATE "C";
-- The log's generation when the partition was first evaluated in it.
ALTER TABLE partitions ADD COLUMN generation bigint NOT NULL DEFAULT 0;
-- Behind the last offset that a firing or a fault refers to: firings are ahead of checkpoints.
ALTER TABLE partitions ADD COLUMN referenced bigint NOT NULL DEFAULT 0;

UPDATE partitions p SET referenced = greatest(f.behind, p.referenced)
    FROM (SELECT "partition", max("offset") + 1 AS behind FROM firings GROUP BY "partition") f
    WHERE f."partition" = p."partition";
UPDATE partitions p SET referenced = greatest(f.behind, p.referenced)
    FROM (SELECT "partition", max("offset") + 1 AS behind FROM faults GROUP BY "partition") f
    WHERE f."partition" = p."partition";
