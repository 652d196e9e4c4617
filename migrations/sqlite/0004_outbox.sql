-- Firings that are still to be told, where a process delivers them.

CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY REFERENCES firings (seq),
    -- Who is telling it, until when; 0 if nobody was yet.
    lease TEXT NOT NULL DEFAULT '',
    leased_until_ms INTEGER NOT NULL DEFAULT 0
) STRICT;
