-- Tocsin's state in the embedded store. Every row that a user owns names its tenant.
-- Times are Unix milliseconds, digests and ids are raw bytes.

CREATE TABLE tenants (
    name TEXT PRIMARY KEY
) STRICT;

INSERT INTO tenants (name) VALUES ('default');

CREATE TABLE users (
    tenant TEXT NOT NULL REFERENCES tenants (name),
    id INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

-- Immutable: a version is its bytes.
CREATE TABLE rule_versions (
    tenant TEXT NOT NULL REFERENCES tenants (name),
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    digest BLOB NOT NULL,
    manifest TEXT NOT NULL,
    module BLOB NOT NULL,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, name, version)
) STRICT;

CREATE INDEX rule_versions_by_digest ON rule_versions (digest);

CREATE TABLE alerts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    user_id INTEGER NOT NULL,
    rule_name TEXT NOT NULL,
    rule_version TEXT NOT NULL,
    rule_digest BLOB NOT NULL,
    params TEXT NOT NULL,
    packed_params BLOB NOT NULL,
    repeat TEXT NOT NULL CHECK (repeat IN ('once', 'every')),
    created_at_ms INTEGER NOT NULL,
    deleted_at_ms INTEGER,
    FOREIGN KEY (tenant, user_id) REFERENCES users (tenant, id),
    FOREIGN KEY (tenant, rule_name, rule_version) REFERENCES rule_versions (tenant, name, version)
) STRICT;

CREATE INDEX alerts_by_user ON alerts (tenant, user_id, id);

CREATE TABLE bindings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    alert_id INTEGER NOT NULL REFERENCES alerts (id),
    symbol TEXT NOT NULL,
    -- The first tick that counts: those published before the alert was created do not.
    "partition" INTEGER NOT NULL,
    counts_from INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('active', 'triggered', 'quarantined', 'deleted')),
    -- Why it is quarantined; otherwise empty.
    reason TEXT NOT NULL DEFAULT '',
    -- Grows with every change that evaluators must hear of.
    revision INTEGER NOT NULL
) STRICT;

CREATE INDEX bindings_by_alert ON bindings (alert_id);
CREATE INDEX bindings_by_revision ON bindings (revision);
CREATE INDEX bindings_live ON bindings ("partition") WHERE status IN ('active', 'quarantined');

-- One row: the newest revision.
CREATE TABLE revisions (
    newest INTEGER NOT NULL
) STRICT;

INSERT INTO revisions (newest) VALUES (0);

CREATE TABLE firings (
    -- The order in which firings were recorded: what cursors point into.
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Derived from binding, partition and offset: recording a firing again changes nothing.
    id BLOB NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    alert_id INTEGER NOT NULL REFERENCES alerts (id),
    binding_id INTEGER NOT NULL REFERENCES bindings (id),
    symbol TEXT NOT NULL,
    price REAL NOT NULL,
    volume REAL NOT NULL,
    time_ms INTEGER NOT NULL,
    conditions INTEGER NOT NULL,
    "partition" INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    rule_name TEXT NOT NULL,
    rule_version TEXT NOT NULL,
    rule_digest BLOB NOT NULL,
    -- A JSON array of [name, number].
    evidence TEXT NOT NULL
) STRICT;

CREATE INDEX firings_by_alert ON firings (alert_id, seq);

-- How far each partition is evaluated. Whoever claims a partition raises its epoch; a commit under an older epoch
-- changes nothing.
CREATE TABLE partitions (
    "partition" INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    -- Changes up to this revision are part of the checkpoint.
    revision INTEGER NOT NULL
) STRICT;

-- The states of a group's bindings at the checkpoint of its partition.
CREATE TABLE group_states (
    "partition" INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    rule_digest BLOB NOT NULL,
    symbol TEXT NOT NULL,
    records BLOB NOT NULL,
    PRIMARY KEY ("partition", tenant, rule_digest, symbol)
) STRICT, WITHOUT ROWID;

-- Requests that carried an Idempotency-Key, and the alert that each created.
CREATE TABLE idempotency_keys (
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    alert_id INTEGER NOT NULL REFERENCES alerts (id),
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;
