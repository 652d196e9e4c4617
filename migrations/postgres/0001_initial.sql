-- Tocsin's state in PostgreSQL. Every row that a user owns names its tenant.
-- Times are Unix milliseconds, digests and ids are raw bytes. Names are compared as bytes, as they are everywhere else.

CREATE TABLE tenants (
    name text COLLATE "C" PRIMARY KEY
);

INSERT INTO tenants (name) VALUES ('default');

CREATE TABLE users (
    tenant text COLLATE "C" NOT NULL REFERENCES tenants (name),
    id integer NOT NULL,
    created_at_ms bigint NOT NULL,
    PRIMARY KEY (tenant, id)
);

-- Immutable: a version is its bytes.
CREATE TABLE rule_versions (
    tenant text COLLATE "C" NOT NULL REFERENCES tenants (name),
    name text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    manifest text NOT NULL,
    module bytea NOT NULL,
    created_at_ms bigint NOT NULL,
    -- Set once the version was found to be impure: it is judged no more, for ever.
    quarantine_reason text,
    quarantined_at_ms bigint,
    -- The change by which evaluators hear of it.
    quarantine_revision bigint,
    PRIMARY KEY (tenant, name, version)
);

CREATE INDEX rule_versions_by_digest ON rule_versions (digest);
CREATE INDEX rule_versions_quarantined ON rule_versions (quarantine_revision) WHERE quarantine_revision IS NOT NULL;

CREATE TABLE alerts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    user_id integer NOT NULL,
    rule_name text COLLATE "C" NOT NULL,
    rule_version text COLLATE "C" NOT NULL,
    rule_digest bytea NOT NULL,
    -- As the user wrote them: jsonb would not give the same text back.
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

CREATE TABLE bindings (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert_id bigint NOT NULL REFERENCES alerts (id),
    symbol text COLLATE "C" NOT NULL,
    -- The first tick that counts: those published before the alert was created do not.
    "partition" bigint NOT NULL,
    counts_from bigint NOT NULL,
    status text NOT NULL CHECK (status IN ('active', 'triggered', 'quarantined', 'deleted')),
    -- Why it is quarantined; otherwise empty.
    reason text NOT NULL DEFAULT '',
    -- Grows with every change that evaluators must hear of.
    revision bigint NOT NULL,
    -- The change by which evaluators last began with it: its creation, or a promotion.
    armed_revision bigint NOT NULL,
    -- The first tick that counts since then, where that is not its first tick of all: those before are in its state.
    resumes_from bigint,
    -- From a manual release until the checkpoint behind which it takes effect.
    release_due boolean NOT NULL DEFAULT false,
    -- 'asked' from the begin of a promotion until its evaluator has handed it over with a checkpoint; then 'held', judged
    -- by nobody, until the promotion has ended.
    hold text NOT NULL DEFAULT 'none' CHECK (hold IN ('none', 'asked', 'held'))
);

CREATE INDEX bindings_by_alert ON bindings (alert_id);
CREATE INDEX bindings_by_revision ON bindings (revision);
CREATE INDEX bindings_live ON bindings ("partition", id) WHERE status IN ('active', 'quarantined');
CREATE INDEX bindings_on_hold ON bindings (hold) WHERE hold <> 'none';

-- One row: the newest revision. Whoever changes alerts locks it first and holds it until the change is committed, so that
-- revisions become visible in their order.
CREATE TABLE revisions (
    newest bigint NOT NULL
);

INSERT INTO revisions (newest) VALUES (0);

-- Alerts and bindings are never removed, and the statement that records a firing or a fault looks for its binding or
-- alert: foreign keys would look again for each.
CREATE TABLE firings (
    -- The order in which firings were recorded: what cursors point into. Drawn in turn (see `take_turn`), so that numbers
    -- become visible in their order.
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Derived from binding, partition and offset: recording a firing again changes nothing.
    id bytea NOT NULL UNIQUE,
    tenant text COLLATE "C" NOT NULL,
    alert_id bigint NOT NULL,
    binding_id bigint NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    price double precision NOT NULL,
    volume double precision NOT NULL,
    time_ms bigint NOT NULL,
    conditions bigint NOT NULL,
    "partition" bigint NOT NULL,
    "offset" bigint NOT NULL,
    rule_name text COLLATE "C" NOT NULL,
    rule_version text COLLATE "C" NOT NULL,
    rule_digest bytea NOT NULL,
    -- A JSON array of [name, number]: as text, since jsonb forgets the sign of a zero.
    evidence text NOT NULL
);

CREATE INDEX firings_by_alert ON firings (alert_id, seq);

-- Firings that are still to be told, where a process delivers them.
CREATE TABLE outbox (
    seq bigint PRIMARY KEY,
    -- Who is telling it, until when; 0 if nobody was yet.
    lease text NOT NULL DEFAULT '',
    leased_until_ms bigint NOT NULL DEFAULT 0
);

-- What it takes to see a fault again, beside the rule's module.
CREATE TABLE faults (
    -- Drawn in turn, as those of firings are.
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Derived from binding, partition and offset: recording a fault again changes nothing.
    id bytea NOT NULL UNIQUE,
    tenant text COLLATE "C" NOT NULL,
    alert_id bigint NOT NULL,
    binding_id bigint NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    price double precision NOT NULL,
    volume double precision NOT NULL,
    time_ms bigint NOT NULL,
    conditions bigint NOT NULL,
    "partition" bigint NOT NULL,
    "offset" bigint NOT NULL,
    rule_name text COLLATE "C" NOT NULL,
    rule_version text COLLATE "C" NOT NULL,
    rule_digest bytea NOT NULL,
    packed_params bytea NOT NULL,
    -- Before the evaluation.
    state bytea NOT NULL,
    fuel bigint NOT NULL,
    kind text NOT NULL,
    -- What is to be known beside the kind, such as the trap.
    detail text NOT NULL,
    -- It quarantined the binding.
    quarantined boolean NOT NULL,
    -- The alert's params when it faulted, where a promotion has changed them since.
    params text
);

CREATE INDEX faults_by_alert ON faults (alert_id, seq);
CREATE INDEX faults_by_binding ON faults (binding_id, "offset");

-- How far each partition is evaluated. Whoever claims a partition raises its epoch; a commit under an older epoch
-- changes nothing.
CREATE TABLE partitions (
    "partition" bigint PRIMARY KEY,
    epoch bigint NOT NULL,
    next_offset bigint NOT NULL,
    -- Changes up to this revision are part of the checkpoint.
    revision bigint NOT NULL,
    -- A JSON array: the bindings whose release takes effect right behind this checkpoint.
    released text NOT NULL DEFAULT '[]'
);

-- The states of a group's bindings at the checkpoint of its partition.
CREATE TABLE group_states (
    "partition" bigint NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    rule_digest bytea NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    records bytea NOT NULL,
    PRIMARY KEY ("partition", tenant, rule_digest, symbol)
);

-- What bindings remember that go on at `resumes_from`, until a checkpoint of their partition remembers it.
CREATE TABLE resume_states (
    binding_id bigint PRIMARY KEY REFERENCES bindings (id),
    record bytea,
    -- What the promotion under way makes of it.
    next_record bytea
);

-- Requests that carried an Idempotency-Key, and the alert that each created.
CREATE TABLE idempotency_keys (
    tenant text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    alert_id bigint NOT NULL REFERENCES alerts (id),
    created_at_ms bigint NOT NULL,
    PRIMARY KEY (tenant, key)
);

-- The promotion under way: one at most.
CREATE TABLE promotions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    only_one boolean NOT NULL DEFAULT true UNIQUE CHECK (only_one),
    tenant text COLLATE "C" NOT NULL,
    rule_name text COLLATE "C" NOT NULL,
    rule_version text COLLATE "C" NOT NULL,
    rule_digest bytea NOT NULL,
    FOREIGN KEY (tenant, rule_name, rule_version) REFERENCES rule_versions (tenant, name, version)
);

-- The alerts that it moves, and the params that they get.
CREATE TABLE promotion_alerts (
    -- From 1 on. Each alert's change has a revision of its own, so that evaluators hear of them a few at a time.
    ordinal bigint PRIMARY KEY,
    alert_id bigint NOT NULL UNIQUE REFERENCES alerts (id),
    from_digest bytea NOT NULL,
    params text NOT NULL,
    packed_params bytea NOT NULL
);
