//! The schema: its tables, its versions, and how it comes to be.
//!
//! Versions go forward only, under an advisory lock, in one transaction. A schema of a newer version is refused.

use steadfast_core::name::StoreId;
use steadfast_core::storage::{Error, ErrorKind};
use tokio_postgres::Client;

use crate::errors::classify;
use crate::functions::Function;
use crate::outcomes::field;

/// The oldest server that has all that is used here.
const SERVER_VERSION_MIN: i32 = 140_000;

/// What leads from each version to the next; the first leads from nothing to version 1.
const VERSIONS: &[&str] = &[VERSION_1, VERSION_2, VERSION_3];

/// How long a migration may take, and how long it waits for its turn and for those who are at work on the tables. Others
/// wait behind it meanwhile.
const MIGRATION_TIME_MAX: &str = "15min";
const MIGRATION_LOCK_WAIT_MAX: &str = "10s";

/// The columns of a task are in order of their alignment, to keep rows short; times are microseconds since the epoch.
/// The rows of a hot queue change twice and are then left alone: vacuum often, and leave room in each page for the next
/// versions, in the index of ids too. Measured: 11 % less log.
const VERSION_1: &str = r#"
CREATE TABLE task (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    rev bigint NOT NULL DEFAULT 0,
    fence bigint NOT NULL DEFAULT 0,
    mark bigint NOT NULL DEFAULT 0,
    digest bigint NOT NULL,
    submitted_at bigint NOT NULL,
    due_at bigint NOT NULL,
    timeout bigint NOT NULL,
    backoff_min bigint NOT NULL,
    backoff_max bigint NOT NULL,
    attempts_max bigint NOT NULL,
    rescues_max bigint NOT NULL,
    attempt integer NOT NULL DEFAULT 0,
    rescues integer NOT NULL DEFAULT 0,
    parents_pending integer NOT NULL DEFAULT 0,
    priority smallint NOT NULL,
    state smallint NOT NULL CHECK (state BETWEEN 0 AND 6),
    claimed_at bigint,
    entered_at bigint,
    lease_expires_at bigint,
    finished_at bigint,
    id text COLLATE "C" NOT NULL PRIMARY KEY WITH (fillfactor = 50),
    kind text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    slot text COLLATE "C",
    key text COLLATE "C",
    worker text COLLATE "C",
    cause text COLLATE "C",
    error text COLLATE "C",
    cancel text COLLATE "C",
    payload bytea NOT NULL CHECK (octet_length(payload) <= 67108864),
    output bytea CHECK (octet_length(output) <= 67108864),
    CHECK ((state = 3) = (lease_expires_at IS NOT NULL)),
    CHECK ((state > 3) = (finished_at IS NOT NULL)),
    CHECK (state <> 0 OR parents_pending > 0)
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 1
);
CREATE INDEX task_ready ON task (queue, priority, seq) WHERE state = 2;
CREATE INDEX task_scheduled ON task (queue, due_at) WHERE state = 1;
CREATE INDEX task_running ON task (queue, lease_expires_at) WHERE state = 3;
CREATE UNIQUE INDEX task_slot ON task (slot) WHERE slot IS NOT NULL AND state < 4;
CREATE UNIQUE INDEX task_key ON task (key) WHERE key IS NOT NULL;

CREATE TABLE edge (
    parent text COLLATE "C" NOT NULL,
    child text COLLATE "C" NOT NULL,
    run boolean NOT NULL,
    PRIMARY KEY (parent, child)
);
CREATE INDEX edge_child ON edge (child);

CREATE TABLE attempt (
    task text COLLATE "C" NOT NULL,
    fence bigint NOT NULL,
    mark bigint NOT NULL,
    claimed_at bigint NOT NULL,
    entered_at bigint,
    ended_at bigint NOT NULL,
    attempt integer NOT NULL,
    worker text COLLATE "C" NOT NULL,
    cause text COLLATE "C" NOT NULL,
    error text COLLATE "C",
    PRIMARY KEY (task, fence)
);

CREATE TABLE queue (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    concurrency bigint
) WITH (fillfactor = 50);

CREATE FUNCTION moment(clock bigint) RETURNS bigint LANGUAGE sql VOLATILE
    AS 'SELECT coalesce(clock, (date_part(''epoch'', clock_timestamp()) * 1000000)::bigint)';
"#;

/// What a handler says while it runs, deadlines, slots that are waited for, pauses, workers. The old checks were
/// stricter, so what is there needn't be checked against the new ones. A program of an older version would leave those
/// that wait for a slot waiting for ever: its functions go, and it is told that a statement doesn't work any more.
const VERSION_2: &str = r#"
ALTER TABLE task
    ADD COLUMN deadline_at bigint,
    ADD COLUMN reported_at bigint,
    ADD COLUMN percent smallint,
    ADD COLUMN slot_waiting boolean NOT NULL DEFAULT false,
    ADD COLUMN message text COLLATE "C",
    DROP CONSTRAINT task_check2,
    ADD CONSTRAINT task_blocked CHECK (state <> 0 OR parents_pending > 0 OR slot_waiting) NOT VALID,
    ADD CONSTRAINT task_slot_waiting CHECK (NOT slot_waiting OR (slot IS NOT NULL AND state NOT BETWEEN 1 AND 3))
        NOT VALID;
DROP INDEX task_slot;
CREATE UNIQUE INDEX task_slot ON task (slot) WHERE slot IS NOT NULL AND state < 4 AND NOT slot_waiting;
CREATE INDEX task_slot_waiting ON task (slot, seq) WHERE slot_waiting AND state = 0;
CREATE INDEX task_deadline ON task (deadline_at, id) WHERE deadline_at IS NOT NULL AND state < 4;
CREATE INDEX task_ended ON task (state, finished_at) WHERE state > 3;

ALTER TABLE edge ADD COLUMN gone boolean NOT NULL DEFAULT false;
ALTER TABLE queue ADD COLUMN paused boolean NOT NULL DEFAULT false;

CREATE TABLE log (
    task text COLLATE "C" NOT NULL,
    fence bigint NOT NULL,
    number bigint NOT NULL,
    at bigint NOT NULL,
    stream text COLLATE "C" NOT NULL,
    text text COLLATE "C" NOT NULL,
    PRIMARY KEY (task, fence, number)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1);

CREATE TABLE checkpoint (
    task text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    value bytea NOT NULL CHECK (octet_length(value) <= 67108864),
    PRIMARY KEY (task, name)
);

CREATE TABLE alias (
    alias text COLLATE "C" NOT NULL PRIMARY KEY,
    task text COLLATE "C" NOT NULL
);
CREATE INDEX alias_task ON alias (task);

CREATE TABLE worker (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    started_at bigint NOT NULL,
    seen_at bigint NOT NULL,
    concurrency bigint NOT NULL,
    running bigint NOT NULL,
    gone boolean NOT NULL,
    queues text[] COLLATE "C" NOT NULL,
    kinds text[] COLLATE "C" NOT NULL
) WITH (fillfactor = 50);

DO $$
DECLARE
    _old regprocedure;
BEGIN
    FOR _old IN SELECT oid FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND proname ~ '^(claim|apply)_[0-9a-f]{16}$'
    LOOP
        EXECUTE 'DROP FUNCTION ' || _old;
    END LOOP;
END $$;
"#;

/// What has ended is listed by the call that ends it, for those who prune: an index on tasks was written for each, and
/// cost a twentieth of the throughput. (Those that didn't succeed keep one of their own, for who asks for them.) Of the
/// checks on a task's state one is left that says the same. A program of an older version would end tasks without listing
/// them: its functions go, and since one that waits for the table meanwhile would go on, so does a name that it uses.
const VERSION_3: &str = r#"
LOCK TABLE task IN ACCESS EXCLUSIVE MODE;
ALTER TABLE task RENAME finished_at TO ended_at;
CREATE TABLE ended (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at bigint NOT NULL,
    size bigint NOT NULL,
    shelf smallint NOT NULL,
    tasks text[] COLLATE "C" NOT NULL
);
-- Of tens of kilobytes, and hardly to be compressed.
ALTER TABLE ended ALTER COLUMN tasks SET STORAGE EXTERNAL;
CREATE INDEX ended_at ON ended (shelf, at, number);
INSERT INTO ended (shelf, at, size, tasks)
    SELECT shelf, max(ended_at), count(*), array_agg(id ORDER BY ended_at, id)
    FROM (
        SELECT id, ended_at, shelf, (row_number() OVER (PARTITION BY shelf ORDER BY ended_at, id) - 1) / 1000 AS page
        FROM (
            SELECT id, ended_at, (CASE WHEN state = 4 THEN 0 ELSE 1 END + CASE WHEN key IS NULL THEN 0 ELSE 2 END)::smallint
                AS shelf
            FROM task WHERE state > 3
        ) AS old
    ) AS paged
    GROUP BY shelf, page ORDER BY max(ended_at);
DROP INDEX task_ended;
CREATE INDEX task_unsuccessful ON task (seq) WHERE state > 4;

ALTER TABLE task
    DROP CONSTRAINT task_state_check, DROP CONSTRAINT task_check, DROP CONSTRAINT task_check1,
    DROP CONSTRAINT task_blocked, DROP CONSTRAINT task_slot_waiting,
    ADD CONSTRAINT task_state CHECK (
        CASE state
            WHEN 0 THEN ended_at IS NULL AND lease_expires_at IS NULL AND (parents_pending > 0 OR slot_waiting)
            WHEN 1 THEN ended_at IS NULL AND lease_expires_at IS NULL AND NOT slot_waiting
            WHEN 2 THEN ended_at IS NULL AND lease_expires_at IS NULL AND NOT slot_waiting
            WHEN 3 THEN ended_at IS NULL AND lease_expires_at IS NOT NULL AND NOT slot_waiting
            ELSE ended_at IS NOT NULL AND lease_expires_at IS NULL AND state BETWEEN 4 AND 6
        END AND (slot IS NOT NULL OR NOT slot_waiting)) NOT VALID;

DO $$
DECLARE
    _old regprocedure;
BEGIN
    FOR _old IN SELECT oid FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace
            AND proname ~ '^(claim|apply|keep|submit)_[0-9a-f]{16}$'
    LOOP
        EXECUTE 'DROP FUNCTION ' || _old;
    END LOOP;
END $$;
"#;

/// Where the schema's version and the store's identity stand.
const META: &str = r#"
CREATE TABLE IF NOT EXISTS meta (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version integer NOT NULL,
    store text COLLATE "C" NOT NULL
);
INSERT INTO meta (version, store) VALUES (0, gen_random_uuid()) ON CONFLICT DO NOTHING;
"#;

/// Makes sure that the schema is there, and answers whose it is. Where it is, nothing but reading is needed.
pub(crate) async fn ensure(
    client: &mut Client,
    schema: &str,
    functions: &[&Function],
) -> Result<StoreId, Error> {
    let row = query_one(client, "SELECT current_setting('server_version_num')::integer").await?;
    let version: i32 = field(&row, 0)?;
    if version < SERVER_VERSION_MIN {
        return Err(Error::new(
            ErrorKind::Broken,
            format!("PostgreSQL {} is too old: version 14 or newer is needed", version / 10_000),
        ));
    }
    if !is_current(client, schema, functions).await? {
        migrate(client, schema, functions).await.map_err(|error| match classify(error, false).0 {
            error if error.kind() == ErrorKind::Contended => Error::new(
                ErrorKind::Unavailable,
                "the schema can't be upgraded while somebody holds its tables; end long transactions and try again",
            )
            .with_source(error),
            error => error,
        })?;
        // It may have been newer than we know.
        if !is_current(client, schema, functions).await? {
            return Err(Error::new(ErrorKind::Broken, "the schema isn't there although it was just made"));
        }
    }
    identify(client).await
}

/// Which store this is.
pub(crate) async fn identify(client: &Client) -> Result<StoreId, Error> {
    let row = query_one(client, "SELECT store FROM meta").await?;
    Ok(StoreId::trusted(field::<&str>(&row, 0)?))
}

async fn query_one(client: &Client, text: &str) -> Result<tokio_postgres::Row, Error> {
    client.query_one(text, &[]).await.map_err(|error| classify(error, true).0)
}

async fn is_current(client: &Client, schema: &str, functions: &[&Function]) -> Result<bool, Error> {
    let found = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&format!("{schema}.meta")]).await;
    let found = found.map_err(|error| classify(error, true).0)?;
    if !field::<bool>(&found, 0)? {
        return Ok(false);
    }
    let version: i32 = field(&query_one(client, "SELECT version FROM meta").await?, 0)?;
    let version = usize::try_from(version).unwrap_or(0);
    if version > VERSIONS.len() {
        return Err(Error::new(
            ErrorKind::Broken,
            format!(
                "the schema {schema} has version {version} and this program knows only {}: use a newer one",
                VERSIONS.len()
            ),
        ));
    }
    let names: Vec<&str> = functions.iter().map(|function| function.name.as_str()).collect();
    let count =
        "SELECT count(*) FROM pg_proc WHERE pronamespace = $1::text::regnamespace AND proname = ANY($2)";
    let count = client.query_one(count, &[&schema, &names]).await.map_err(|error| classify(error, true).0)?;
    let whole = usize::try_from(field::<i64>(&count, 0)?) == Ok(functions.len());
    Ok(version == VERSIONS.len() && whole)
}

async fn migrate(
    client: &mut Client,
    schema: &str,
    functions: &[&Function],
) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    let patience = format!(
        "SET LOCAL lock_timeout = '{MIGRATION_LOCK_WAIT_MAX}'; SET LOCAL statement_timeout = '{MIGRATION_TIME_MAX}'"
    );
    transaction.batch_execute(&patience).await?;
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended('steadfast:' || $1, 0))";
    transaction.query_one(lock, &[&schema]).await?;
    let exists = "SELECT 1 FROM pg_namespace WHERE nspname = $1";
    if transaction.query_opt(exists, &[&schema]).await?.is_none() {
        transaction.batch_execute(&format!("CREATE SCHEMA {schema}")).await?;
    }
    transaction.batch_execute(META).await?;
    let version: i32 = transaction.query_one("SELECT version FROM meta", &[]).await?.try_get(0)?;
    let version = usize::try_from(version).unwrap_or(0);
    if version > VERSIONS.len() {
        return Ok(());
    }
    for text in &VERSIONS[version..] {
        transaction.batch_execute(text).await?;
    }
    let known = i32::try_from(VERSIONS.len()).expect("there are few versions");
    transaction.execute("UPDATE meta SET version = $1", &[&known]).await?;
    for function in functions {
        let exists = "SELECT 1 FROM pg_proc WHERE pronamespace = $1::text::regnamespace AND proname = $2";
        if transaction.query_opt(exists, &[&schema, &function.name]).await?.is_none() {
            transaction.batch_execute(&function.definition).await?;
        }
    }
    transaction.commit().await
}
