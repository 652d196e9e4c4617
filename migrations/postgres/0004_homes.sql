-- Where the ticks of each symbol are that somebody watches: on the partition on which the first of them turned up. -1 as
-- long as none did, where nobody can tell beforehand.
CREATE TABLE symbol_homes (
    symbol text COLLATE "C" PRIMARY KEY,
    "partition" bigint NOT NULL
);

INSERT INTO symbol_homes SELECT symbol, min("partition") FROM bindings GROUP BY symbol;

-- A JSON array: where each partition ended when the binding was created, as long as its symbol has no home. Then its
-- partition is -1.
ALTER TABLE bindings ADD COLUMN ends text;

CREATE INDEX bindings_by_symbol ON bindings (symbol, id) WHERE status IN ('active', 'quarantined');
