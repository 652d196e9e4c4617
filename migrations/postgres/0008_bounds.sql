-- Bytes of params and state that each binding of a rule version has: what caps on bytes are held against.
ALTER TABLE rule_versions ADD COLUMN record_bytes bigint NOT NULL DEFAULT 0;
-- Firings that were not recorded, since the binding fired more often than one may.
ALTER TABLE bindings ADD COLUMN suppressed bigint NOT NULL DEFAULT 0;
