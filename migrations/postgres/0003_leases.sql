-- Locks that end by themselves: what only one process does at a time, such as keeping a feed's connection.

CREATE TABLE leases (
    name text COLLATE "C" PRIMARY KEY,
    owner text NOT NULL,
    -- Until when it is the owner's, by the clock of this database.
    until_ms bigint NOT NULL
);

-- The few firings that somebody is telling, among all that are still to be told.
CREATE INDEX outbox_leased ON outbox (leased_until_ms) WHERE leased_until_ms > 0;
