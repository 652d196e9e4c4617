-- Promotion: alerts move to another version of their rule, with the states of their bindings.

-- The change by which evaluators last began with a binding: its creation, or a promotion.
ALTER TABLE bindings RENAME COLUMN created_revision TO armed_revision;
-- The first tick that counts since then, where that is not its first tick of all: those before are in its state.
ALTER TABLE bindings ADD COLUMN resumes_from INTEGER;
-- 'asked' from the begin of a promotion until its evaluator has handed it over with a checkpoint; then 'held', judged by
-- nobody, until the promotion has ended.
ALTER TABLE bindings ADD COLUMN hold TEXT NOT NULL DEFAULT 'none' CHECK (hold IN ('none', 'asked', 'held'));
CREATE INDEX bindings_on_hold ON bindings (hold) WHERE hold <> 'none';

-- What bindings remember that go on at `resumes_from`, until a checkpoint of their partition remembers it.
CREATE TABLE resume_states (
    binding_id INTEGER PRIMARY KEY REFERENCES bindings (id),
    record BLOB,
    -- What the promotion under way makes of it.
    next_record BLOB
) STRICT;

-- The promotion under way: one at most.
CREATE TABLE promotions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    only_one INTEGER NOT NULL DEFAULT 1 UNIQUE CHECK (only_one = 1),
    tenant TEXT NOT NULL,
    rule_name TEXT NOT NULL,
    rule_version TEXT NOT NULL,
    rule_digest BLOB NOT NULL,
    FOREIGN KEY (tenant, rule_name, rule_version) REFERENCES rule_versions (tenant, name, version)
) STRICT;

-- The alerts that it moves, and the params that they get.
CREATE TABLE promotion_alerts (
    -- From 1 on. Each alert's change has a revision of its own, so that evaluators hear of them a few at a time.
    ordinal INTEGER PRIMARY KEY,
    alert_id INTEGER NOT NULL UNIQUE REFERENCES alerts (id),
    from_digest BLOB NOT NULL,
    params TEXT NOT NULL,
    packed_params BLOB NOT NULL
) STRICT;

-- The alert's params when it faulted, where a promotion has changed them since.
ALTER TABLE faults ADD COLUMN params TEXT;

CREATE TRIGGER alert_moves AFTER UPDATE OF rule_digest ON alerts WHEN OLD.rule_digest <> NEW.rule_digest
BEGIN
    UPDATE live_by_rule SET live = live - (SELECT count(*) FROM bindings
                                           WHERE alert_id = OLD.id AND status IN ('active', 'quarantined'))
        WHERE (tenant, rule_digest) = (OLD.tenant, OLD.rule_digest);
    INSERT INTO live_by_rule SELECT NEW.tenant, NEW.rule_digest, count(*) FROM bindings
        WHERE alert_id = NEW.id AND status IN ('active', 'quarantined')
        ON CONFLICT DO UPDATE SET live = live + excluded.live;
END;
