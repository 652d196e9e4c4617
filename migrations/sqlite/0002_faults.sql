-- Faults and their bundles, release from quarantine, impure rules, and counters of live bindings.

-- The change that created a binding; `revision` is the last one.
ALTER TABLE bindings ADD COLUMN created_revision INTEGER NOT NULL DEFAULT 0;
UPDATE bindings SET created_revision = revision;
-- 1 from a manual release until the checkpoint behind which it takes effect.
ALTER TABLE bindings ADD COLUMN release_due INTEGER NOT NULL DEFAULT 0;

-- A JSON array: the bindings whose release takes effect right behind this checkpoint.
ALTER TABLE partitions ADD COLUMN released TEXT NOT NULL DEFAULT '[]';

-- Set once the version was found to be impure: it is judged no more, for ever.
ALTER TABLE rule_versions ADD COLUMN quarantine_reason TEXT;
ALTER TABLE rule_versions ADD COLUMN quarantined_at_ms INTEGER;
-- The change by which evaluators hear of it.
ALTER TABLE rule_versions ADD COLUMN quarantine_revision INTEGER;
CREATE INDEX rule_versions_quarantined ON rule_versions (quarantine_revision) WHERE quarantine_revision IS NOT NULL;

-- What it takes to see a fault again, beside the rule's module.
CREATE TABLE faults (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Derived from binding, partition and offset: recording a fault again changes nothing.
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
    packed_params BLOB NOT NULL,
    -- Before the evaluation.
    state BLOB NOT NULL,
    fuel INTEGER NOT NULL,
    kind TEXT NOT NULL,
    -- What is to be known beside the kind, such as the trap.
    detail TEXT NOT NULL,
    -- 1 if it quarantined the binding.
    quarantined INTEGER NOT NULL
) STRICT;

CREATE INDEX faults_by_alert ON faults (alert_id, seq);
CREATE INDEX faults_by_binding ON faults (binding_id, "offset");

-- How many bindings are active or quarantined: what caps are held against. Triggers keep them, so that no path forgets.
CREATE TABLE live_by_tenant (
    tenant TEXT PRIMARY KEY,
    live INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE live_by_rule (
    tenant TEXT NOT NULL,
    rule_digest BLOB NOT NULL,
    live INTEGER NOT NULL,
    PRIMARY KEY (tenant, rule_digest)
) STRICT, WITHOUT ROWID;

INSERT INTO live_by_tenant
    SELECT a.tenant, count(*) FROM bindings b JOIN alerts a ON a.id = b.alert_id
    WHERE b.status IN ('active', 'quarantined') GROUP BY a.tenant;
INSERT INTO live_by_rule
    SELECT a.tenant, a.rule_digest, count(*) FROM bindings b JOIN alerts a ON a.id = b.alert_id
    WHERE b.status IN ('active', 'quarantined') GROUP BY a.tenant, a.rule_digest;

CREATE TRIGGER binding_begins AFTER INSERT ON bindings WHEN NEW.status IN ('active', 'quarantined')
BEGIN
    INSERT INTO live_by_tenant SELECT tenant, 1 FROM alerts WHERE id = NEW.alert_id
        ON CONFLICT DO UPDATE SET live = live + 1;
    INSERT INTO live_by_rule SELECT tenant, rule_digest, 1 FROM alerts WHERE id = NEW.alert_id
        ON CONFLICT DO UPDATE SET live = live + 1;
END;

-- A binding that has ended never lives again.
CREATE TRIGGER binding_ends AFTER UPDATE OF status ON bindings
    WHEN OLD.status IN ('active', 'quarantined') AND NEW.status NOT IN ('active', 'quarantined')
BEGIN
    UPDATE live_by_tenant SET live = live - 1 WHERE tenant = (SELECT tenant FROM alerts WHERE id = OLD.alert_id);
    UPDATE live_by_rule SET live = live - 1
        WHERE (tenant, rule_digest) = (SELECT tenant, rule_digest FROM alerts WHERE id = OLD.alert_id);
END;
