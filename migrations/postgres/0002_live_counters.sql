-- How many bindings are active or quarantined: what caps are held against. Triggers keep them, so that no path forgets;
-- each runs once for a statement, however many rows it changes.

CREATE TABLE live_by_tenant (
    tenant text COLLATE "C" PRIMARY KEY,
    live bigint NOT NULL
);

CREATE TABLE live_by_rule (
    tenant text COLLATE "C" NOT NULL,
    rule_digest bytea NOT NULL,
    live bigint NOT NULL,
    PRIMARY KEY (tenant, rule_digest)
);

CREATE FUNCTION count_begun_bindings() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE TRIGGER bindings_begin AFTER INSERT ON bindings REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_begun_bindings();

-- A binding that has ended never lives again.
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

CREATE TRIGGER bindings_end AFTER UPDATE ON bindings REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_ended_bindings();

CREATE FUNCTION count_moved_alerts() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE TRIGGER alerts_move AFTER UPDATE ON alerts REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_moved_alerts();
