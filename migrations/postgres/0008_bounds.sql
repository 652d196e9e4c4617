-- Bytes of params and state that each binding of a rule version has: what caps on bytes are held against.
ALTER TABLE rule_versions ADD COLUMN record_bytes bigint NOT NULL DEFAULT 0;
-- Firings that were not recorded, since the binding fired more often than one may.
ALTER TABLE bindings ADD COLUMN suppressed bigint NOT NULL DEFAULT 0;
-- 1 where the alert leaves a version that is out of service: no evaluator has its bindings, and they begin at zero.
ALTER TABLE promotion_alerts ADD COLUMN out_of_service bigint NOT NULL DEFAULT 0;
