//! The reference: one evaluator evaluates all of the topic, undisturbed, in a database that knows of every alert from the
//! beginning, of no promotion, and of no deletion before it is past what is compared.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::db::Db;
use crate::environment::Environment;
use crate::processes::Process;
use crate::run::{POLL, Progress, evaluated_ticks, is_done};
use crate::topics::Topic;

/// Makes what clients created known to the reference, each alert from its own offset on. As in the beginning no symbol
/// is assigned yet, so all wait for that: were it another partition than in the run, they would count from the wrong offset.
const ADD_CREATED: &str = r#"
    UPDATE alerts SET deleted_at_ms = NULL;
    UPDATE alerts a SET rule_version = r.version, rule_digest = r.digest FROM rule_versions r
        WHERE a.rule_name = 'walk' AND r.name = 'walk' AND r.version = '1.0.0' AND a.rule_version <> r.version;
    UPDATE revisions SET newest = newest + 1;
    UPDATE bindings SET status = 'active', reason = '', unquarantine_due = false, handoff = 'none', resumes_from = NULL,
        revision = (SELECT newest FROM revisions), armed_revision = (SELECT newest FROM revisions) WHERE id >= {first};
    UPDATE bindings SET "partition" = -1, partition_ends = (SELECT jsonb_agg(CASE WHEN p = "partition" THEN counts_from ELSE 0 END)
        FROM generate_series(0, {partitions} - 1) p) WHERE id >= {first} AND "partition" >= 0;
    INSERT INTO symbol_assignments SELECT DISTINCT symbol, -1 FROM bindings WHERE id >= {first} ON CONFLICT DO NOTHING"#;

/// Bindings that were deleted, and up to where something of them was recorded: they were evaluated no further than that for
/// sure.
const ENDED: &str = r#"CREATE TABLE torture_ended AS
    SELECT b.id AS binding_id, max(e."offset") AS until FROM bindings b
    LEFT JOIN (SELECT binding_id, "offset" FROM firings UNION ALL SELECT binding_id, "offset" FROM faults) e
        ON e.binding_id = b.id
    WHERE b.status = 'deleted' GROUP BY b.id"#;

/// Partitions that halted as if the log had lost its end, and were accepted: ids of firings on them are derived differently
/// from then on.
const ACCEPTED: &str = r#"CREATE TABLE torture_accepted AS SELECT "partition" FROM partitions WHERE generation > 0"#;

/// Lets go of those that are evaluated as far as they are compared, as a checkpoint says that knows them: all that ever were
/// would be evaluated to the end otherwise. What the evaluator writes just now is left for the next time: neither ever waits for the other in a ring.
const END_COMPARED: &str = r#"
    UPDATE revisions SET newest = newest + 1;
    UPDATE bindings SET status = 'deleted', revision = (SELECT newest FROM revisions) WHERE id IN (
        SELECT b.id FROM bindings b JOIN torture_ended e ON e.binding_id = b.id
        JOIN partitions p ON p."partition" = b."partition"
        WHERE coalesce(e.until, -1) < p.next_offset AND b.armed_revision <= p.revision
        AND b.status IN ('active', 'quarantined')
        FOR UPDATE OF b SKIP LOCKED);
    SELECT pg_notify('tocsin_revisions', (SELECT newest FROM revisions)::text)"#;

/// Time between two of that.
const END_INTERVAL: Duration = Duration::from_secs(2);

/// Runs the reference, once everything else has ended.
pub(crate) fn run(environment: &Environment) -> anyhow::Result<()> {
    let (found, reference) = (&environment.db, &environment.reference);
    found.execute(ENDED)?;
    found.execute(ACCEPTED)?;
    let first = reference.number("SELECT max(id) + 1 FROM bindings")?;
    for table in ["alerts", "bindings"] {
        let known = reference.number(&format!("SELECT max(id) FROM {table}"))?;
        let later = found.texts(&format!("SELECT to_jsonb(t)::text FROM {table} t WHERE id > {known} ORDER BY id"))?;
        copy(reference, table, "OVERRIDING SYSTEM VALUE", &later)?;
    }
    let partitions = Topic::new(&environment.stack.brokers, environment.ticks_topic())?.ends()?.len();
    let later = ADD_CREATED.replace("{first}", &first.to_string()).replace("{partitions}", &partitions.to_string());
    reference.execute(&later)?;
    reference.execute("CREATE TABLE torture_ended (binding_id bigint, until bigint)")?;
    reference.execute(r#"CREATE TABLE torture_accepted ("partition" bigint)"#)?;
    for table in ["torture_ended", "torture_accepted"] {
        copy(reference, table, "", &found.texts(&format!("SELECT to_jsonb(t)::text FROM {table} t"))?)?;
    }
    evaluate(environment)
}

fn copy(to: &Db, table: &str, how: &str, rows: &[String]) -> anyhow::Result<()> {
    let insert = |row: &String| {
        format!("INSERT INTO {table} {how} SELECT * FROM jsonb_populate_record(NULL::{table}, $json${row}$json$);\n")
    };
    rows.chunks(500).try_for_each(|rows| to.execute(&rows.iter().map(insert).collect::<String>()))
}

fn evaluate(environment: &Environment) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut evaluator = Process::new(environment, "evaluate", 99)?;
    evaluator.start_on(environment, &environment.reference)?;
    let ends = Topic::new(&environment.stack.brokers, environment.ticks_topic())?.ends()?;
    let (mut progress, mut let_go) = (Progress::default(), Instant::now());
    while !is_done(&environment.reference, &ends)? {
        evaluator.poll()?;
        if let_go.elapsed() > END_INTERVAL {
            environment.reference.execute(END_COMPARED)?;
            let_go = Instant::now();
        }
        ensure!(
            progress.is_made(evaluated_ticks(&environment.reference)?),
            "the reference run does not come to {ends:?}"
        );
        std::thread::sleep(POLL);
    }
    evaluator.stop()?;
    println!("torture: the reference run took {} s", begun.elapsed().as_secs());
    Ok(())
}
