-- The embedded store's schema, in SQLite. `migrations/postgres` has the same tables and columns.
--
-- Times are Unix milliseconds; digests and ids are raw bytes.
-- A binding is live while its status is 'active' or 'quarantined': evaluators keep it in memory, and caps count it.

-- One row per tenant. Every row that belongs to a user names its tenant.
CREATE TABLE tenants (
    name TEXT PRIMARY KEY
) STRICT;

INSERT INTO tenants (name) VALUES ('default');

-- One row per user of a tenant, written with the user's first alert.
CREATE TABLE users (
    tenant TEXT NOT NULL REFERENCES tenants (name),
    id INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

-- One row per rule version. The module never changes; only its quarantine is written later.
CREATE TABLE rule_versions (
    tenant TEXT NOT NULL REFERENCES tenants (name),
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    digest BLOB NOT NULL,
    manifest TEXT NOT NULL,
    module BLOB NOT NULL,
    -- Bytes of params and state that each binding of this version has: caps on bytes count them.
    record_bytes INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    -- Set once the version was found to be impure: it is never evaluated again.
    quarantine_reason TEXT,
    quarantined_at_ms INTEGER,
    -- The revision by which evaluators learn of the quarantine.
    quarantine_revision INTEGER,
    PRIMARY KEY (tenant, name, version)
) STRICT;

CREATE INDEX rule_versions_by_digest ON rule_versions (digest);
CREATE INDEX rule_versions_quarantined ON rule_versions (quarantine_revision) WHERE quarantine_revision IS NOT NULL;

-- One row per alert, kept after its deletion.
CREATE TABLE alerts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    user_id INTEGER NOT NULL,
    rule_name TEXT NOT NULL,
    rule_version TEXT NOT NULL,
    rule_digest BLOB NOT NULL,
    -- JSON as the user wrote it.
    params TEXT NOT NULL,
    packed_params BLOB NOT NULL,
    repeat TEXT NOT NULL CHECK (repeat IN ('once', 'every')),
    created_at_ms INTEGER NOT NULL,
    deleted_at_ms INTEGER,
    FOREIGN KEY (tenant, user_id) REFERENCES users (tenant, id),
    FOREIGN KEY (tenant, rule_name, rule_version) REFERENCES rule_versions (tenant, name, version)
) STRICT;

CREATE INDEX alerts_by_user ON alerts (tenant, user_id, id);

-- One row per binding: one alert on one symbol. Kept after the alert's deletion.
CREATE TABLE bindings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    alert_id INTEGER NOT NULL REFERENCES alerts (id),
    symbol TEXT NOT NULL,
    -- The partition that the symbol is assigned to, and the offset of the first tick that counts: ticks published before
    -- the alert was created do not. The partition is -1 while the symbol is not assigned.
    "partition" INTEGER NOT NULL,
    counts_from INTEGER NOT NULL,
    -- A JSON array: where each partition ended when the binding was created. NULL once the symbol is assigned.
    partition_ends TEXT,
    status TEXT NOT NULL CHECK (status IN ('active', 'triggered', 'quarantined', 'deleted')),
    -- Why the binding is quarantined; otherwise empty.
    reason TEXT NOT NULL DEFAULT '',
    -- The last change of the binding that evaluators must read.
    revision INTEGER NOT NULL,
    -- The change from which evaluators armed the binding anew: its creation, the assignment of its symbol, or the end of a
    -- promotion.
    armed_revision INTEGER NOT NULL,
    -- The offset of the first tick that counts since `armed_revision`, where that is not `counts_from`: ticks before it are
    -- in the binding's state.
    resumes_from INTEGER,
    -- 1 from a manual unquarantine until the checkpoint behind which it takes effect.
    unquarantine_due INTEGER NOT NULL DEFAULT 0,
    -- Where the binding stands in a promotion: 'requested' until its evaluator has handed it off with a checkpoint, then
    -- 'held', and not evaluated, until the promotion has ended.
    handoff TEXT NOT NULL DEFAULT 'none' CHECK (handoff IN ('none', 'requested', 'held')),
    -- Firings that were not recorded, because the binding fired more often than a binding may.
    suppressed INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX bindings_by_alert ON bindings (alert_id);
CREATE INDEX bindings_by_revision ON bindings (revision);
CREATE INDEX bindings_live ON bindings ("partition") WHERE status IN ('active', 'quarantined');
CREATE INDEX bindings_by_symbol ON bindings (symbol, id) WHERE status IN ('active', 'quarantined');
CREATE INDEX bindings_in_handoff ON bindings (handoff) WHERE handoff <> 'none';

-- Live bindings that have changed since they were armed. A reader of changes that has not reached their `armed_revision` yet
-- finds it here, since `revision` has moved on.
CREATE INDEX bindings_changed_since_armed ON bindings (armed_revision)
    WHERE armed_revision <> revision AND status IN ('active', 'quarantined');

-- One row per symbol that was ever watched: the partition on which its ticks count, which is the one on which its first tick
-- arrived. -1 until then.
CREATE TABLE symbol_assignments (
    symbol TEXT PRIMARY KEY,
    "partition" INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row: the newest revision.
CREATE TABLE revisions (
    newest INTEGER NOT NULL
) STRICT;

INSERT INTO revisions (newest) VALUES (0);

-- One row per tenant with a binding: how many of its bindings are live. Triggers maintain it, so that no path of the code can
-- forget to.
CREATE TABLE live_by_tenant (
    tenant TEXT PRIMARY KEY,
    live INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row per rule version with a binding: how many of its bindings are live. Maintained by the same triggers.
CREATE TABLE live_by_rule (
    tenant TEXT NOT NULL,
    rule_digest BLOB NOT NULL,
    live INTEGER NOT NULL,
    PRIMARY KEY (tenant, rule_digest)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER binding_created AFTER INSERT ON bindings WHEN NEW.status IN ('active', 'quarantined')
BEGIN
    INSERT INTO live_by_tenant SELECT tenant, 1 FROM alerts WHERE id = NEW.alert_id
        ON CONFLICT DO UPDATE SET live = live + 1;
    INSERT INTO live_by_rule SELECT tenant, rule_digest, 1 FROM alerts WHERE id = NEW.alert_id
        ON CONFLICT DO UPDATE SET live = live + 1;
END;

-- A binding that has ended is never live again.
CREATE TRIGGER binding_ended AFTER UPDATE OF status ON bindings
    WHEN OLD.status IN ('active', 'quarantined') AND NEW.status NOT IN ('active', 'quarantined')
BEGIN
    UPDATE live_by_tenant SET live = live - 1 WHERE tenant = (SELECT tenant FROM alerts WHERE id = OLD.alert_id);
    UPDATE live_by_rule SET live = live - 1
        WHERE (tenant, rule_digest) = (SELECT tenant, rule_digest FROM alerts WHERE id = OLD.alert_id);
END;

CREATE TRIGGER alert_promoted AFTER UPDATE OF rule_digest ON alerts WHEN OLD.rule_digest <> NEW.rule_digest
BEGIN
    UPDATE live_by_rule SET live = live - (SELECT count(*) FROM bindings
                                           WHERE alert_id = OLD.id AND status IN ('active', 'quarantined'))
        WHERE (tenant, rule_digest) = (OLD.tenant, OLD.rule_digest);
    INSERT INTO live_by_rule SELECT NEW.tenant, NEW.rule_digest, count(*) FROM bindings
        WHERE alert_id = NEW.id AND status IN ('active', 'quarantined')
        ON CONFLICT DO UPDATE SET live = live + excluded.live;
END;

-- One row per request that carried an Idempotency-Key: the alert that it created.
CREATE TABLE idempotency_keys (
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    -- SHA-256 of the request.
    fingerprint BLOB NOT NULL,
    alert_id INTEGER NOT NULL REFERENCES alerts (id),
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;

-- One row per firing.
CREATE TABLE firings (
    -- The order in which firings were recorded, and what cursors point into.
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Derived from binding, partition and offset: recording a firing a second time changes nothing.
    id BLOB NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    alert_id INTEGER NOT NULL REFERENCES alerts (id),
    binding_id INTEGER NOT NULL REFERENCES bindings (id),
    -- The tick.
    symbol TEXT NOT NULL,
    price REAL NOT NULL,
    volume REAL NOT NULL,
    time_ms INTEGER NOT NULL,
    conditions INTEGER NOT NULL,
    "partition" INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    -- The rule version that fired.
    rule_name TEXT NOT NULL,
    rule_version TEXT NOT NULL,
    rule_digest BLOB NOT NULL,
    -- A JSON array of [name, number].
    evidence TEXT NOT NULL
) STRICT;

CREATE INDEX firings_by_alert ON firings (alert_id, seq);

-- One row per firing that is not delivered yet, where a process delivers firings.
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY REFERENCES firings (seq),
    -- The firing's alert: leases are by alert, and joining firings for each row would cost too much.
    alert_id INTEGER NOT NULL
) STRICT;

-- One row per alert whose firings a deliverer has leased: the alert's one owner, and until when by this database's clock.
CREATE TABLE outbox_owners (
    alert_id INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    until_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX outbox_owners_by_owner ON outbox_owners (owner);

-- One row per fault: all that reproduces it beside the rule's module.
CREATE TABLE faults (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Derived from binding, partition and offset: recording a fault a second time changes nothing.
    id BLOB NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    -- The alert's owner: what is kept is bounded for each user.
    user_id INTEGER NOT NULL,
    alert_id INTEGER NOT NULL REFERENCES alerts (id),
    binding_id INTEGER NOT NULL REFERENCES bindings (id),
    -- The tick.
    symbol TEXT NOT NULL,
    price REAL NOT NULL,
    volume REAL NOT NULL,
    time_ms INTEGER NOT NULL,
    conditions INTEGER NOT NULL,
    "partition" INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    -- The rule version that faulted.
    rule_name TEXT NOT NULL,
    rule_version TEXT NOT NULL,
    rule_digest BLOB NOT NULL,
    packed_params BLOB NOT NULL,
    -- The binding's state before the evaluation.
    state BLOB NOT NULL,
    fuel INTEGER NOT NULL,
    kind TEXT NOT NULL,
    -- What the kind alone does not say, such as the trap.
    detail TEXT NOT NULL,
    -- 1 if the fault quarantined the binding.
    quarantined INTEGER NOT NULL,
    -- The alert's params at the fault, as JSON, where a promotion has changed them since.
    params TEXT
) STRICT;

CREATE INDEX faults_by_alert ON faults (alert_id, seq);
CREATE INDEX faults_by_user ON faults (user_id, seq);
CREATE INDEX faults_by_binding ON faults (binding_id, "offset");

-- One row: the tick log that all stored offsets refer to, written by the first claim of a partition.
CREATE TABLE tick_log (
    only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
    identity TEXT NOT NULL,
    -- How many logs the store referred to before it. Ids of firings contain the log, except those of the first one.
    generation INTEGER NOT NULL,
    accepted_at_ms INTEGER NOT NULL
) STRICT;

-- One row per partition that was ever claimed: its checkpoint. A claim raises the epoch; a commit under an older epoch changes
-- nothing.
CREATE TABLE partitions (
    "partition" INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    -- -1 until the partition is first evaluated.
    next_offset INTEGER NOT NULL,
    -- The checkpoint contains the changes up to this revision.
    revision INTEGER NOT NULL,
    -- A JSON array: the bindings whose unquarantine takes effect right behind the checkpoint.
    unquarantined TEXT NOT NULL DEFAULT '[]',
    -- Why the partition is not evaluated until an operator acts; NULL from the next checkpoint on.
    halted TEXT,
    -- The identity of the checkpoint's tick log.
    log TEXT,
    -- The tick log's generation when the partition was first evaluated in it.
    generation INTEGER NOT NULL,
    -- One past the last offset that a firing or a fault refers to: firings are ahead of checkpoints.
    referenced INTEGER NOT NULL DEFAULT 0
) STRICT;

-- One row per group: the states of its bindings at the checkpoint of its partition.
CREATE TABLE group_states (
    "partition" INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    rule_digest BLOB NOT NULL,
    symbol TEXT NOT NULL,
    records BLOB NOT NULL,
    PRIMARY KEY ("partition", tenant, rule_digest, symbol)
) STRICT, WITHOUT ROWID;

-- One row per binding that a promotion moves or has moved: the state with which it resumes at `resumes_from`. Removed once a
-- checkpoint of its partition contains it.
CREATE TABLE resume_states (
    binding_id INTEGER PRIMARY KEY REFERENCES bindings (id),
    record BLOB,
    -- The state that the unfinished promotion has migrated for the new version.
    next_record BLOB
) STRICT;

-- At most one row: the unfinished promotion.
CREATE TABLE promotions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    only_one INTEGER NOT NULL DEFAULT 1 UNIQUE CHECK (only_one = 1),
    tenant TEXT NOT NULL,
    rule_name TEXT NOT NULL,
    rule_version TEXT NOT NULL,
    rule_digest BLOB NOT NULL,
    -- By this database's clock.
    begun_at_ms INTEGER NOT NULL,
    FOREIGN KEY (tenant, rule_name, rule_version) REFERENCES rule_versions (tenant, name, version)
) STRICT;

-- One row per alert that the unfinished promotion moves, with its new params.
CREATE TABLE promotion_alerts (
    -- From 1 on. Each alert's change gets a revision of its own, so that evaluators can read the changes in pages.
    ordinal INTEGER PRIMARY KEY,
    alert_id INTEGER NOT NULL UNIQUE REFERENCES alerts (id),
    from_digest BLOB NOT NULL,
    params TEXT NOT NULL,
    packed_params BLOB NOT NULL,
    -- 1 where the alert leaves a version that is out of service: no evaluator has its bindings, and their states begin at zero.
    out_of_service INTEGER NOT NULL
) STRICT;

-- One row per lease: a lock that ends by itself, for work that one process does at a time, such as a source's connection.
CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    -- By this database's clock.
    until_ms INTEGER NOT NULL
) STRICT;
