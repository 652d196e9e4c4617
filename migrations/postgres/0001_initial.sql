-- The store's schema in PostgreSQL. `migrations/sqlite` has the same tables and columns.
--
-- Times are Unix milliseconds; digests and ids are raw bytes; names are compared as bytes, as Rust compares them.
-- A binding is live while its status is 'active' or 'quarantined': evaluators keep it in memory, and caps count it.

-- One row per tenant. Every row that belongs to a user names its tenant.
CREATE TABLE tenants (
    name text COLLATE "C" PRIMARY KEY
);

INSERT INTO tenants (name) VALUES ('default');

-- One row per user of a tenant, written with the user's first alert.
CREATE TABLE users (
    tenant text COLLATE "C" NOT NULL REFERENCES tenants (name),
    id integer NOT NULL,
    created_at_ms bigint NOT NULL,
    PRIMARY KEY (tenant, id)
);

-- One row per rule version. The module never changes; only its quarantine is written later.
CREATE TABLE rule_versions (
    tenant text COLLATE "C" NOT NULL REFERENCES tenants (name),
    name text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    manifest text NOT NULL,
    module bytea NOT NULL,
    -- Bytes of params and state that each binding of this version has: caps on bytes count them.
    record_bytes bigint NOT NULL,
    created_at_ms bigint NOT NULL,
    -- Set once the version was found to be impure: it is never evaluated again.
    quarantine_reason text,
    quarantined_at_ms bigint,
    -- The revision by which evaluators learn of the quarantine.
    quarantine_revision bigint,
    PRIMARY KEY (tenant, name, version)
);

CREATE INDEX rule_versions_by_digest ON rule_versions (digest);
CREATE INDEX rule_versions_quarantined ON rule_versions (quarantine_revision) WHERE quarantine_revision IS NOT NULL;

-- One row per alert, kept after its deletion.
CREATE TABLE alerts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    user_id integer NOT NULL,
    rule_name text COLLATE "C" NOT NULL,
    rule_version text COLLATE "C" NOT NULL,
    rule_digest bytea NOT NULL,
    -- JSON as the user wrote it: jsonb would not return the same text.
    params text NOT NULL,
    packed_params bytea NOT NULL,
    repeat text NOT NULL CHECK (repeat IN ('once', 'every')),
    created_at_ms bigint NOT NULL,
    deleted_at_ms bigint,
    FOREIGN KEY (tenant, user_id) REFERENCES users (tenant, id),
    FOREIGN KEY (tenant, rule_name, rule_version) REFERENCES rule_versions (tenant, name, version)
);

CREATE INDEX alerts_by_user ON alerts (tenant, user_id, id);
CREATE INDEX alerts_by_rule ON alerts (rule_digest);

-- One row per binding: one alert on one symbol. Kept after the alert's deletion.
CREATE TABLE bindings (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert_id bigint NOT NULL REFERENCES alerts (id),
    symbol text COLLATE "C" NOT NULL,
    -- The partition that the symbol is assigned to, and the offset of the first tick that counts: ticks published before
    -- the alert was created do not. The partition is -1 while the symbol is not assigned.
    "partition" bigint NOT NULL,
    counts_from bigint NOT NULL,
    -- A JSON array: where each partition ended when the binding was created. NULL once the symbol is assigned.
    partition_ends text,
    status text NOT NULL CHECK (status IN ('active', 'triggered', 'quarantined', 'deleted')),
    -- Why the binding is quarantined; otherwise empty.
    reason text NOT NULL DEFAULT '',
    -- The last change of the binding that evaluators must read.
    revision bigint NOT NULL,
    -- The change from which evaluators armed the binding anew: its creation, the assignment of its symbol, or the end of a
    -- promotion.
    armed_revision bigint NOT NULL,
    -- The offset of the first tick that counts since `armed_revision`, where that is not `counts_from`: ticks before it are
    -- in the binding's state.
    resumes_from bigint,
    -- True from a manual unquarantine until the checkpoint behind which it takes effect.
    unquarantine_due boolean NOT NULL DEFAULT false,
    -- Where the binding stands in a promotion: 'requested' until its evaluator has handed it off with a checkpoint, then
    -- 'held', and not evaluated, until the promotion has ended.
    handoff text NOT NULL DEFAULT 'none' CHECK (handoff IN ('none', 'requested', 'held')),
    -- Firings that were not recorded, because the binding fired more often than a binding may.
    suppressed bigint NOT NULL DEFAULT 0
);

CREATE INDEX bindings_by_alert ON bindings (alert_id);
CREATE INDEX bindings_by_revision ON bindings (revision);
CREATE INDEX bindings_live ON bindings ("partition", id) WHERE status IN ('active', 'quarantined');
CREATE INDEX bindings_by_symbol ON bindings (symbol, id) WHERE status IN ('active', 'quarantined');
CREATE INDEX bindings_in_handoff ON bindings (handoff) WHERE handoff <> 'none';

-- Live bindings that have changed since they were armed. A reader of changes that has not reached their `armed_revision` yet
-- finds it here, since `revision` has moved on.
CREATE INDEX bindings_changed_since_armed ON bindings (armed_revision)
    WHERE armed_revision <> revision AND status IN ('active', 'quarantined');

-- One row per symbol that was ever watched: the partition on which its ticks count, which is the one on which its first tick
-- arrived. -1 until then.
CREATE TABLE symbol_assignments (
    symbol text COLLATE "C" PRIMARY KEY,
    "partition" bigint NOT NULL
);

-- One row: the newest revision. A transaction that changes alerts locks it first and keeps the lock until its commit, so that
-- revisions become visible in their order.
CREATE TABLE revisions (
    newest bigint NOT NULL
);

INSERT INTO revisions (newest) VALUES (0);

-- One row per tenant with a binding: how many of its bindings are live. Triggers maintain it, so that no path of the code can
-- forget to; each runs once per statement, however many rows the statement changes.
CREATE TABLE live_by_tenant (
    tenant text COLLATE "C" PRIMARY KEY,
    live bigint NOT NULL
);

-- One row per rule version with a binding: how many of its bindings are live. Maintained by the same triggers.
CREATE TABLE live_by_rule (
    tenant text COLLATE "C" NOT NULL,
    rule_digest bytea NOT NULL,
    live bigint NOT NULL,
    PRIMARY KEY (tenant, rule_digest)
);

CREATE FUNCTION count_created_bindings() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO live_by_tenant AS l
        SELECT a.tenant, count(*) FROM new_rows b JOIN alerts a ON a.id = b.alert_id
        WHERE b.status IN ('active', 'quarantined') GROUP BY a.tenant
        ON CONFLICT (tenant) DO UPDATE SET live = l.live + excluded.live;
    INSERT INTO live_by_rule AS l
        SELECT a.tenant, a.rule_digest, count(*) FROM new_rows b JOIN alerts a ON a.id = b.alert_id
        WHERE b.status IN ('active', 'quarantined') GROUP BY a.tenant, a.rule_digest
        ON CONFLICT (tenant, rule_digest) DO UPDATE SET live = l.live + excluded.live;
    RETURN NULL;
END $$;

CREATE TRIGGER bindings_created AFTER INSERT ON bindings REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_created_bindings();

-- A binding that has ended is never live again.
CREATE FUNCTION count_ended_bindings() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WITH ended AS (
        SELECT a.tenant, count(*) AS many FROM old_rows o JOIN new_rows n ON n.id = o.id JOIN alerts a ON a.id = o.alert_id
        WHERE o.status IN ('active', 'quarantined') AND n.status NOT IN ('active', 'quarantined') GROUP BY a.tenant)
    UPDATE live_by_tenant l SET live = l.live - ended.many FROM ended WHERE l.tenant = ended.tenant;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    WITH ended AS (
        SELECT a.tenant, a.rule_digest, count(*) AS many
        FROM old_rows o JOIN new_rows n ON n.id = o.id JOIN alerts a ON a.id = o.alert_id
        WHERE o.status IN ('active', 'quarantined') AND n.status NOT IN ('active', 'quarantined')
        GROUP BY a.tenant, a.rule_digest)
    UPDATE live_by_rule l SET live = l.live - ended.many FROM ended
    WHERE (l.tenant, l.rule_digest) = (ended.tenant, ended.rule_digest);
    RETURN NULL;
END $$;

CREATE TRIGGER bindings_ended AFTER UPDATE ON bindings REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_ended_bindings();

CREATE FUNCTION count_promoted_alerts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WITH left_behind AS (
        SELECT o.tenant, o.rule_digest, count(*) AS many
        FROM old_rows o JOIN new_rows n ON n.id = o.id JOIN bindings b ON b.alert_id = o.id
        WHERE o.rule_digest <> n.rule_digest AND b.status IN ('active', 'quarantined') GROUP BY o.tenant, o.rule_digest)
    UPDATE live_by_rule l SET live = l.live - left_behind.many FROM left_behind
    WHERE (l.tenant, l.rule_digest) = (left_behind.tenant, left_behind.rule_digest);
    INSERT INTO live_by_rule AS l
        SELECT n.tenant, n.rule_digest, count(*)
        FROM old_rows o JOIN new_rows n ON n.id = o.id JOIN bindings b ON b.alert_id = n.id
        WHERE o.rule_digest <> n.rule_digest AND b.status IN ('active', 'quarantined') GROUP BY n.tenant, n.rule_digest
        ON CONFLICT (tenant, rule_digest) DO UPDATE SET live = l.live + excluded.live;
    RETURN NULL;
END $$;

CREATE TRIGGER alerts_promoted AFTER UPDATE ON alerts REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_promoted_alerts();

-- One row per request that carried an Idempotency-Key: the alert that it created.
CREATE TABLE idempotency_keys (
    tenant text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    -- SHA-256 of the request.
    fingerprint bytea NOT NULL,
    alert_id bigint NOT NULL REFERENCES alerts (id),
    created_at_ms bigint NOT NULL,
    PRIMARY KEY (tenant, key)
);

-- One row per firing. Alerts and bindings are never removed, and the statement that records a firing or a fault looks up its
-- binding or alert anyway: foreign keys would look each up a second time.
CREATE TABLE firings (
    -- The order in which firings were recorded, and what cursors point into. Drawn under a lock (see `take_turn`), so that
    -- numbers become visible in their order.
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Derived from binding, partition and offset: recording a firing a second time changes nothing.
    id bytea NOT NULL UNIQUE,
    tenant text COLLATE "C" NOT NULL,
    alert_id bigint NOT NULL,
    binding_id bigint NOT NULL,
    -- The tick.
    symbol text COLLATE "C" NOT NULL,
    price double precision NOT NULL,
    volume double precision NOT NULL,
    time_ms bigint NOT NULL,
    conditions bigint NOT NULL,
    "partition" bigint NOT NULL,
    "offset" bigint NOT NULL,
    -- The rule version that fired.
    rule_name text COLLATE "C" NOT NULL,
    rule_version text COLLATE "C" NOT NULL,
    rule_digest bytea NOT NULL,
    -- A JSON array of [name, number]; text, since jsonb drops the sign of a zero.
    evidence text NOT NULL
);

CREATE INDEX firings_by_alert ON firings (alert_id, seq);

-- One row per firing that is not delivered yet, where a process delivers firings. It is a queue whose rows are soon removed:
-- it is vacuumed by the number of dead rows.
CREATE TABLE outbox (
    seq bigint PRIMARY KEY,
    -- The firing's alert: leases are by alert, and joining firings for each row would cost too much.
    alert_id bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

-- One row per alert whose firings a deliverer has leased: the alert's one owner, and until when by this database's clock. Its
-- rows are soon removed, too.
CREATE TABLE outbox_owners (
    alert_id bigint PRIMARY KEY,
    owner text NOT NULL,
    until_ms bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

CREATE INDEX outbox_owners_by_owner ON outbox_owners (owner);

-- One row per fault: all that reproduces it beside the rule's module.
CREATE TABLE faults (
    -- Drawn under a lock, as in firings.
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Derived from binding, partition and offset: recording a fault a second time changes nothing.
    id bytea NOT NULL UNIQUE,
    tenant text COLLATE "C" NOT NULL,
    -- The alert's owner: what is kept is bounded for each user.
    user_id integer NOT NULL,
    alert_id bigint NOT NULL,
    binding_id bigint NOT NULL,
    -- The tick.
    symbol text COLLATE "C" NOT NULL,
    price double precision NOT NULL,
    volume double precision NOT NULL,
    time_ms bigint NOT NULL,
    conditions bigint NOT NULL,
    "partition" bigint NOT NULL,
    "offset" bigint NOT NULL,
    -- The rule version that faulted.
    rule_name text COLLATE "C" NOT NULL,
    rule_version text COLLATE "C" NOT NULL,
    rule_digest bytea NOT NULL,
    packed_params bytea NOT NULL,
    -- The binding's state before the evaluation.
    state bytea NOT NULL,
    fuel bigint NOT NULL,
    kind text NOT NULL,
    -- What the kind alone does not say, such as the trap.
    detail text NOT NULL,
    -- Whether the fault quarantined the binding.
    quarantined boolean NOT NULL,
    -- The alert's params at the fault, as JSON, where a promotion has changed them since.
    params text
);

CREATE INDEX faults_by_alert ON faults (alert_id, seq);
CREATE INDEX faults_by_user ON faults (user_id, seq);
CREATE INDEX faults_by_binding ON faults (binding_id, "offset");

-- One row: the tick log that all stored offsets refer to, written by the first claim of a partition.
CREATE TABLE tick_log (
    only_one bigint PRIMARY KEY CHECK (only_one = 1),
    identity text COLLATE "C" NOT NULL,
    -- How many logs the store referred to before it. Ids of firings contain the log, except those of the first one.
    generation bigint NOT NULL,
    accepted_at_ms bigint NOT NULL
);

-- One row per partition that was ever claimed: its checkpoint. A claim raises the epoch; a commit under an older epoch changes
-- nothing.
CREATE TABLE partitions (
    "partition" bigint PRIMARY KEY,
    epoch bigint NOT NULL,
    -- -1 until the partition is first evaluated.
    next_offset bigint NOT NULL,
    -- The checkpoint contains the changes up to this revision.
    revision bigint NOT NULL,
    -- A JSON array: the bindings whose unquarantine takes effect right behind the checkpoint.
    unquarantined text NOT NULL DEFAULT '[]',
    -- Why the partition is not evaluated until an operator acts; NULL from the next checkpoint on.
    halted text,
    -- The identity of the checkpoint's tick log.
    log text COLLATE "C",
    -- The tick log's generation when the partition was first evaluated in it.
    generation bigint NOT NULL,
    -- One past the last offset that a firing or a fault refers to: firings are ahead of checkpoints.
    referenced bigint NOT NULL DEFAULT 0
);

-- One row per group: the states of its bindings at the checkpoint of its partition.
CREATE TABLE group_states (
    "partition" bigint NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    rule_digest bytea NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    records bytea NOT NULL,
    PRIMARY KEY ("partition", tenant, rule_digest, symbol)
);

-- One row per binding that a promotion moves or has moved: the state with which it resumes at `resumes_from`. Removed once a
-- checkpoint of its partition contains it.
CREATE TABLE resume_states (
    binding_id bigint PRIMARY KEY REFERENCES bindings (id),
    record bytea,
    -- The state that the unfinished promotion has migrated for the new version.
    next_record bytea
);

-- At most one row: the unfinished promotion.
CREATE TABLE promotions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    only_one boolean NOT NULL DEFAULT true UNIQUE CHECK (only_one),
    tenant text COLLATE "C" NOT NULL,
    rule_name text COLLATE "C" NOT NULL,
    rule_version text COLLATE "C" NOT NULL,
    rule_digest bytea NOT NULL,
    -- By this database's clock.
    begun_at_ms bigint NOT NULL,
    FOREIGN KEY (tenant, rule_name, rule_version) REFERENCES rule_versions (tenant, name, version)
);

-- One row per alert that the unfinished promotion moves, with its new params.
CREATE TABLE promotion_alerts (
    -- From 1 on. Each alert's change gets a revision of its own, so that evaluators can read the changes in pages.
    ordinal bigint PRIMARY KEY,
    alert_id bigint NOT NULL UNIQUE REFERENCES alerts (id),
    from_digest bytea NOT NULL,
    params text NOT NULL,
    packed_params bytea NOT NULL,
    -- 1 where the alert leaves a version that is out of service: no evaluator has its bindings, and their states begin at zero.
    out_of_service bigint NOT NULL
);

-- One row per lease: a lock that ends by itself, for work that one process does at a time, such as a source's connection.
CREATE TABLE leases (
    name text COLLATE "C" PRIMARY KEY,
    owner text NOT NULL,
    -- By this database's clock.
    until_ms bigint NOT NULL
);
