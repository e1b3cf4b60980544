//! The SQL statements that claim and apply tasks, each with named parameters such as `:worker`.
//!
//! They are the unit of certification. The server-side functions are rendered from these texts (see `functions`): a
//! function only says in which order they follow each other, and each has a READ COMMITTED snapshot of its own. So
//! certification can stop a function before any of them, and a session can send one by itself
//! ([`Statement::numbered`]).
//!
//! Nothing here waits for a lock and judges *other* rows in the same snapshot. Guards on the row that is locked are
//! fine: PostgreSQL evaluates them again on its newest version. Times are microseconds since the epoch: `:now` is the
//! clock as the function read it before, for conditions; `moment(:clock)` is the clock of the moment, for what is
//! granted.
//!
//! Parameters that are arrays and are unnested side by side are one table; an array that is null there is a column of
//! nulls. In a select list that costs a quarter of what it costs in `FROM`, where each array is stored first: so it
//! stands where it is hot.

/// One statement, with its parameters by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// What it is called.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

impl Statement {
    /// The text with `$1`, `$2`, … for a session that sends it, and the names of the parameters in that order.
    pub fn numbered(&self) -> (String, Vec<&'static str>) {
        let mut names: Vec<&'static str> = Vec::new();
        let text = rename(self.text, |name| {
            let known = names.iter().position(|one| *one == name);
            let at = known.unwrap_or_else(|| {
                names.push(name);
                names.len() - 1
            });
            format!("${}", at + 1)
        });
        (text, names)
    }

    /// The text with a variable `_name` for each parameter, for the body of a function.
    pub fn embedded(&self) -> String {
        rename(self.text, |name| format!("_{name}"))
    }
}

/// Replaces each `:name`; `::type` is a cast and stays.
fn rename(text: &'static str, mut with: impl FnMut(&'static str) -> String) -> String {
    let mut renamed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(':') {
        let after = &rest[at + 1..];
        let end = after.find(|c: char| !(c.is_ascii_lowercase() || c == '_')).unwrap_or(after.len());
        if end > 0 {
            renamed.push_str(&rest[..at]);
            renamed.push_str(&with(&after[..end]));
            rest = &after[end..];
        } else {
            // A cast: both colons and the type stay.
            let cast = after.trim_start_matches(':');
            let end = cast.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(cast.len());
            renamed.push_str(&rest[..rest.len() - cast.len() + end]);
            rest = &cast[end..];
        }
    }
    renamed.push_str(rest);
    renamed
}

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: Statement = Statement { name: stringify!($name), text: $text };)*

        /// All of this module, in its order.
        pub const ALL: &[Statement] = &[$($name,)*];
    };
}

pub mod keep;

/// Every statement there is.
pub fn all() -> impl Iterator<Item = &'static Statement> {
    ALL.iter().chain(keep::ALL)
}

/// How many due tasks of a queue one claim makes ready at most.
pub const PROMOTED_MAX: u32 = 1_000;

/// What stands in `what` where a step was applied before: by another sending of the same call.
pub const ALREADY: i16 = 1;
/// There is no such task.
pub const NOT_FOUND: i16 = 2;
/// The task isn't as the guard says.
pub const STALE: i16 = 3;
/// The id belongs to another request.
pub const ID_TAKEN: i16 = 4;
/// The key belongs to another request.
pub const KEY_TAKEN: i16 = 5;
/// An unfinished task holds the slot.
pub const SLOT_TAKEN: i16 = 6;
/// A parent doesn't exist.
pub const PARENT_MISSING: i16 = 7;
/// Nothing speaks against the step: it wasn't tried yet, or things changed since it was.
pub const FREE: i16 = 8;
/// The alias is another task's.
pub const ALIAS_TAKEN: i16 = 9;

statements! {
    // ---- claims ----

    /// Locks the limits of the queues asked for, in order of name; a pause is a limit of 0. Counting what runs is left
    /// to a later statement: a count in this one would be older than the wait for the lock. Where there is no row, there
    /// is none until the end either: see `LOCK_QUEUES`.
    LOCK_LIMITS = "
        SELECT array_agg(name), array_agg(CASE WHEN paused THEN 0 ELSE concurrency END)
        FROM (SELECT name, concurrency, paused FROM queue
              WHERE name = ANY(:queues::text[]) AND (concurrency IS NOT NULL OR paused)
              ORDER BY name FOR UPDATE) AS locked";

    /// Makes due tasks of a queue ready.
    PROMOTE = "
        UPDATE task SET state = 2, rev = rev + 1
        WHERE id = ANY(ARRAY(
            SELECT id FROM task WHERE queue = :queue::text AND state = 1 AND due_at <= :now::bigint
            ORDER BY due_at LIMIT 1000 FOR UPDATE SKIP LOCKED))";

    /// How many tasks of a queue run.
    COUNT_RUNNING = "SELECT count(*) FROM task WHERE queue = :queue::text AND state = 3";

    /// Leases ready tasks of a queue. The rows are chosen into an array first: a subquery with a limit that the
    /// planner puts inside a loop would choose anew for each row. They are found again by their place, which they
    /// can't leave while they are locked; one that has moved between the snapshot and the lock is left for another
    /// claim.
    /// It waits for nobody, so `:now` is the clock of the moment.
    CLAIM = "
        UPDATE task SET
            state = 3, rev = rev + 1, fence = fence + 1, attempt = attempt + 1, worker = :worker::text,
            claimed_at = :now::bigint, entered_at = NULL, lease_expires_at = :now::bigint + :lease::bigint,
            reported_at = NULL, percent = NULL, message = NULL
        WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM task WHERE queue = :queue::text AND state = 2 AND kind = ANY(:kinds::text[])
            ORDER BY priority, seq LIMIT :room::bigint FOR UPDATE SKIP LOCKED))
        RETURNING id, fence, kind, queue, slot, payload, attempt, attempts_max, timeout, backoff_min, backoff_max,
            priority, seq, CASE WHEN deadline_at IS NOT NULL THEN greatest(deadline_at, :now::bigint) - :now::bigint END,
            NULL::bigint";

    /// How long until the next task of these queues is due. What is due already is left out: it was promoted, or
    /// somebody else has it locked.
    NEXT_DUE = "
        SELECT min(greatest(due_at, :now::bigint)) - :now::bigint
        FROM unnest(:queues::text[]) AS asked(name), LATERAL (
            SELECT due_at FROM task WHERE queue = asked.name AND state = 1 AND due_at > :since::bigint
            ORDER BY due_at LIMIT 1) AS next";

    // ---- transitions and renewals ----

    /// Locks tasks in order of id, where the order in which later statements touch them isn't this one.
    LOCK_TASKS = "
        SELECT count(*)
        FROM (SELECT id FROM task WHERE id = ANY(:m_task::text[] || :r_task::text[]) ORDER BY id FOR UPDATE) AS locked";

    /// Carries out the transitions whose guards hold, in order of id, as their arrays are. It may have waited for a
    /// claim that is later than `:now`; no end is earlier than that. A task that ends while it waits for its slot keeps
    /// saying so: that tells it from a holder, whose slot is free now. Somebody may claim where a task is ready now, or
    /// one that was ready before has room in its queue.
    MOVE = "
        WITH moved AS (
            UPDATE task AS t SET
                state = x.target, rev = t.rev + 1, mark = x.mark,
                cause = coalesce(x.cause, t.cause),
                error = CASE WHEN x.cause IS NULL THEN t.error ELSE x.error END,
                output = coalesce(x.output, t.output),
                cancel = coalesce(x.cancel, t.cancel),
                attempt = t.attempt - coalesce(x.back, 0),
                rescues = t.rescues + coalesce(x.rescue, 0),
                entered_at = coalesce(t.entered_at, :now::bigint - x.entered),
                due_at = CASE WHEN x.target = 1
                    THEN :now::bigint + least(coalesce(x.delay, 0), 9223372036854775807 - :now::bigint)
                    WHEN x.target = 2 THEN least(t.due_at, :now::bigint)
                    ELSE t.due_at END,
                lease_expires_at = CASE WHEN x.target = 3 THEN t.lease_expires_at END,
                ended_at = CASE WHEN x.target > 3 THEN greatest(:now::bigint, t.claimed_at) ELSE t.ended_at END
            FROM (
                SELECT unnest(:m_step::integer[]) AS step, unnest(:m_batch::integer[]) AS batch,
                    unnest(:m_task::text[]) AS task, unnest(:m_from::smallint[]) AS states,
                    unnest(:m_fence::bigint[]) AS fence, unnest(:m_live::boolean[]) AS live,
                    unnest(:m_lapsed::boolean[]) AS lapsed, unnest(:m_overdue::boolean[]) AS overdue,
                    unnest(:m_mark::bigint[]) AS mark,
                    unnest(:m_target::smallint[]) AS target, unnest(:m_delay::bigint[]) AS delay,
                    unnest(:m_back::integer[]) AS back, unnest(:m_rescue::integer[]) AS rescue,
                    unnest(:m_cause::text[]) AS cause, unnest(:m_error::text[]) AS error,
                    unnest(:m_output::bytea[]) AS output, unnest(:m_cancel::text[]) AS cancel,
                    unnest(:m_entered::bigint[]) AS entered
            ) AS x
            WHERE t.id = x.task AND (x.batch IS NULL OR x.batch <> ALL(:refused::integer[]))
                AND (x.states >> t.state) & 1 = 1
                AND (x.fence IS NULL OR t.fence = x.fence)
                AND (x.live IS NULL OR t.cancel IS NULL)
                AND (x.lapsed IS NULL OR t.lease_expires_at <= :now::bigint)
                AND (x.overdue IS NULL OR t.deadline_at <= :now::bigint)
            RETURNING x.step, t.id, t.state, t.rev, t.fence, t.cancel IS NOT NULL AS cancelling,
                t.attempt + coalesce(x.back, 0) AS attempt, x.fence IS NULL AS displaced,
                CASE WHEN t.state > 3 AND NOT t.slot_waiting THEN t.slot END AS freed, t.key IS NOT NULL AS keyed,
                t.queue
        )
        SELECT array_agg(step), array_agg(state), array_agg(rev), array_agg(fence), array_agg(cancelling),
            array_agg(id) FILTER (WHERE state = 4 AND NOT keyed), array_agg(id) FILTER (WHERE state > 4 AND NOT keyed),
            array_agg(id) FILTER (WHERE state = 4 AND keyed), array_agg(id) FILTER (WHERE state > 4 AND keyed),
            array_agg(id) FILTER (WHERE state < 3 AND fence > 0),
            array_agg(attempt) FILTER (WHERE state < 3 AND fence > 0),
            coalesce(bool_or(state = 2), false) OR EXISTS (
                SELECT FROM queue AS q WHERE q.concurrency > 0
                    AND q.name IN (SELECT queue FROM moved WHERE state <> 3 AND fence > 0)
                    AND EXISTS (SELECT FROM task AS w WHERE w.queue = q.name AND w.state = 2)),
            coalesce(bool_or(displaced), false),
            array_agg(freed) FILTER (WHERE freed IS NOT NULL)
        FROM moved";

    /// Gives the attempts that another one will follow a row of their own. Where the task wasn't running, its last
    /// attempt has one.
    KEEP_ATTEMPTS = "
        INSERT INTO attempt (task, fence, attempt, worker, claimed_at, entered_at, ended_at, cause, error, mark)
        SELECT t.id, t.fence, x.attempt, t.worker, t.claimed_at, t.entered_at, moment(:clock::bigint),
            t.cause, t.error, t.mark
        FROM unnest(:again::text[], :again_attempt::integer[]) AS x(task, attempt) JOIN task AS t ON t.id = x.task
        ON CONFLICT DO NOTHING";

    /// Tells why transitions weren't carried out, or, with `:only_together`, whether those of batches that stand or
    /// fall together will be.
    EXAMINE_MOVES = "
        SELECT array_agg(what), array_agg(step), array_agg(state), array_agg(rev), array_agg(fence),
            array_agg(cancelling), coalesce(array_agg(batch) FILTER (WHERE what BETWEEN 2 AND 7), '{}')
        FROM (
            SELECT x.step, x.batch, t.state, t.rev, t.fence, t.cancel IS NOT NULL AS cancelling,
                (CASE WHEN t.id IS NULL THEN 2
                    WHEN (x.states >> t.state) & 1 = 1
                        AND (x.fence IS NULL OR t.fence = x.fence)
                        AND (x.live IS NULL OR t.cancel IS NULL)
                        AND (x.lapsed IS NULL OR t.lease_expires_at <= :now::bigint)
                        AND (x.overdue IS NULL OR t.deadline_at <= :now::bigint) THEN 8
                    WHEN t.mark = x.mark THEN 1
                    WHEN EXISTS (SELECT 1 FROM attempt AS a
                        WHERE a.task = x.task AND a.fence = x.fence AND a.mark = x.mark) THEN 1
                    ELSE 3 END)::smallint AS what
            FROM unnest(:m_step::integer[], :m_batch::integer[], :m_task::text[], :m_from::smallint[],
                    :m_fence::bigint[], :m_live::boolean[], :m_lapsed::boolean[], :m_overdue::boolean[],
                    :m_mark::bigint[])
                AS x(step, batch, task, states, fence, live, lapsed, overdue, mark)
            LEFT JOIN task AS t ON t.id = x.task
            WHERE x.step <> ALL(:done::integer[]) AND (x.batch IS NULL OR x.batch <> ALL(:refused::integer[]))
                AND (x.batch IS NOT NULL OR NOT :only_together::boolean)
        ) AS examined";

    /// Prolongs leases, in order of id, as their arrays are.
    RENEW = "
        WITH renewed AS (
            UPDATE task AS t SET
                lease_expires_at = moment(:clock::bigint) + x.lease,
                entered_at = coalesce(t.entered_at, moment(:clock::bigint) - x.entered)
            FROM (
                SELECT unnest(:r_step::integer[]) AS step, unnest(:r_batch::integer[]) AS batch,
                    unnest(:r_task::text[]) AS task, unnest(:r_fence::bigint[]) AS fence,
                    unnest(:r_lease::bigint[]) AS lease, unnest(:r_entered::bigint[]) AS entered
            ) AS x
            WHERE t.id = x.task AND t.state = 3 AND t.fence = x.fence
                AND (x.batch IS NULL OR x.batch <> ALL(:refused::integer[]))
            RETURNING x.step, t.cancel
        )
        SELECT array_agg(step), array_agg(cancel) FROM renewed";

    /// Tells why leases weren't prolonged, or whether they will be; as `EXAMINE_MOVES`.
    EXAMINE_RENEWALS = "
        SELECT array_agg(what), array_agg(step), array_agg(state), array_agg(rev), array_agg(fence),
            array_agg(cancelling), coalesce(array_agg(batch) FILTER (WHERE what BETWEEN 2 AND 7), '{}')
        FROM (
            SELECT x.step, x.batch, t.state, t.rev, t.fence, t.cancel IS NOT NULL AS cancelling,
                (CASE WHEN t.id IS NULL THEN 2 WHEN t.state = 3 AND t.fence = x.fence THEN 8 ELSE 3 END)::smallint
                    AS what
            FROM unnest(:r_step::integer[], :r_batch::integer[], :r_task::text[], :r_fence::bigint[])
                AS x(step, batch, task, fence)
            LEFT JOIN task AS t ON t.id = x.task
            WHERE x.step <> ALL(:done::integer[]) AND (x.batch IS NULL OR x.batch <> ALL(:refused::integer[]))
                AND (x.batch IS NOT NULL OR NOT :only_together::boolean)
        ) AS examined";

    // ---- inserts ----

    /// Share-locks parents in order of id and reads them as they are once locked. What isn't answered doesn't exist.
    LOCK_PARENTS = "
        SELECT x.place, t.state
        FROM unnest(:parents::text[]) WITH ORDINALITY AS x(id, place) JOIN task AS t ON t.id = x.id
        ORDER BY t.id FOR SHARE OF t";

    /// Share-locks the holders of the slots that new tasks would wait for, in order of id: none of them ends before
    /// those wait. One that has ended once it is locked is no holder; who has taken its place since isn't seen.
    LOCK_HOLDERS = "
        SELECT coalesce(array_agg(slot), '{}'), coalesce(bool_or(state = 2), false)
        FROM (SELECT slot, state FROM task
              WHERE slot = ANY(:slots::text[]) AND slot IS NOT NULL AND state < 4 AND NOT slot_waiting
              ORDER BY id FOR SHARE) AS locked";

    /// Which new tasks have to wait for their slots: behind the holder; behind those who waited for a holder that this
    /// call has ended; or behind one that is stored beside them.
    FIND_WAITING = "
        SELECT array_agg(x.waits AND (x.sooner > 0
            OR (x.slot = ANY(:held::text[]) AND x.slot <> ALL(:freed::text[]))
            OR (x.slot = ANY(:freed::text[]) AND EXISTS (
                SELECT 1 FROM task AS w WHERE w.slot = x.slot AND w.slot_waiting AND w.state = 0))) ORDER BY x.place)
        FROM (
            SELECT n.place, n.slot, coalesce(n.waits, false) AS waits,
                count(*) FILTER (WHERE n.slot IS NOT NULL AND n.missing IS NULL AND n.failed IS NULL
                        AND (n.batch IS NULL OR n.batch <> ALL(:refused::integer[]))
                        AND NOT EXISTS (SELECT 1 FROM task AS t WHERE t.id = n.task)
                        AND NOT EXISTS (SELECT 1 FROM task AS t WHERE t.key = n.key))
                    OVER (PARTITION BY n.slot ORDER BY n.place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                    AS sooner
            FROM unnest(:i_batch::integer[], :i_task::text[], :i_key::text[], :i_slot::text[], :i_waits::boolean[],
                    :failed::text[], :missing::text[]) WITH ORDINALITY
                AS n(batch, task, key, slot, waits, failed, missing, place)
        ) AS x";

    /// Whether a new task waits for a slot of which neither the holder is locked nor is one stored beside it: whoever it
    /// was meant to wait for wasn't stored, and who is in the way of that may end without seeing who waits.
    FIND_STRANDED = "
        SELECT EXISTS (
            SELECT 1 FROM task AS w
            WHERE w.id = ANY(:stored::text[]) AND w.slot_waiting AND w.state = 0
                AND w.slot <> ALL(:held::text[]) AND w.slot <> ALL(:freed::text[])
                AND NOT EXISTS (SELECT 1 FROM task AS h
                    WHERE h.id = ANY(:stored::text[]) AND h.slot = w.slot AND h.state < 4 AND NOT h.slot_waiting))";

    /// Whether a key belongs to a task.
    FIND_KEY = "SELECT EXISTS (SELECT 1 FROM task WHERE key = :key::text)";

    /// Stores new tasks, in the order asked for, but for those that lack a parent and those whose id, key or slot
    /// belongs to another. `:pending`, `:failed` and `:missing` say what was found out about their parents, `:waiting`
    /// who waits for a slot.
    INSERT = "
        WITH inserted AS (
            INSERT INTO task (id, kind, queue, slot, key, priority, payload, attempts_max, rescues_max,
                timeout, backoff_min, backoff_max, digest, parents_pending, submitted_at, due_at, deadline_at,
                slot_waiting, state, cause, error, ended_at)
            SELECT x.task, x.kind, x.queue, x.slot, x.key, x.priority, x.payload, x.attempts_max, x.rescues_max,
                x.timeout, x.backoff_min, x.backoff_max, x.digest, coalesce(x.pending, 0), :now::bigint,
                coalesce(x.due_at, :now::bigint + least(coalesce(x.delay, 0), 9223372036854775807 - :now::bigint)),
                CASE WHEN x.patience IS NULL THEN x.deadline_at
                    ELSE :now::bigint + least(x.patience, 9223372036854775807 - :now::bigint) END,
                coalesce(x.waiting AND x.failed IS NULL, false),
                CASE WHEN x.failed IS NOT NULL THEN 5 WHEN x.pending > 0 OR x.waiting THEN 0
                    WHEN x.due_at > :now::bigint OR x.delay > 0 THEN 1 ELSE 2 END,
                CASE WHEN x.failed IS NOT NULL THEN 'dependency_failed' END, x.failed,
                CASE WHEN x.failed IS NOT NULL THEN :now::bigint END
            FROM (
                SELECT unnest(:i_batch::integer[]) AS batch, unnest(:i_task::text[]) AS task,
                    unnest(:i_kind::text[]) AS kind, unnest(:i_queue::text[]) AS queue,
                    unnest(:i_slot::text[]) AS slot, unnest(:i_key::text[]) AS key,
                    unnest(:i_priority::smallint[]) AS priority, unnest(:i_payload::bytea[]) AS payload,
                    unnest(:i_due_at::bigint[]) AS due_at, unnest(:i_delay::bigint[]) AS delay,
                    unnest(:i_deadline_at::bigint[]) AS deadline_at, unnest(:i_patience::bigint[]) AS patience,
                    unnest(:i_waits::boolean[]) AS waits, unnest(:waiting::boolean[]) AS waiting,
                    unnest(:i_attempts_max::bigint[]) AS attempts_max,
                    unnest(:i_rescues_max::bigint[]) AS rescues_max, unnest(:i_timeout::bigint[]) AS timeout,
                    unnest(:i_backoff_min::bigint[]) AS backoff_min,
                    unnest(:i_backoff_max::bigint[]) AS backoff_max, unnest(:i_digest::bigint[]) AS digest,
                    unnest(:pending::integer[]) AS pending, unnest(:failed::text[]) AS failed,
                    unnest(:missing::text[]) AS missing
            ) AS x
            WHERE x.missing IS NULL AND (x.batch IS NULL OR x.batch <> ALL(:refused::integer[]))
                AND (x.failed IS NULL OR x.slot IS NULL OR x.waits
                    OR NOT EXISTS (SELECT 1 FROM task AS h
                        WHERE h.slot = x.slot AND h.slot IS NOT NULL AND h.state < 4 AND NOT h.slot_waiting))
            ON CONFLICT DO NOTHING
            RETURNING id, state, rev, key IS NOT NULL AS keyed
        )
        SELECT array_agg(id), array_agg(state), array_agg(rev), coalesce(bool_or(state = 2), false),
            array_agg(id) FILTER (WHERE state > 4 AND NOT keyed), array_agg(id) FILTER (WHERE state > 4 AND keyed)
        FROM inserted";

    /// Whether a new task waits for one that the same batch was to store before it and somebody else has stored: it is
    /// neither locked nor stored here, and may end without seeing who waits.
    FIND_ORPHANED = "
        SELECT EXISTS (
            SELECT 1 FROM unnest(:e_parent::text[], :e_child::text[], :e_place::integer[]) AS x(parent, child, place)
            WHERE x.child = ANY(:stored::text[]) AND x.parent <> ALL(:stored::text[])
                AND (:states::smallint[])[x.place] = -1)";

    /// Stores the edges of new tasks.
    INSERT_EDGES = "
        INSERT INTO edge (parent, child, run)
        SELECT x.parent, x.child, x.run
        FROM unnest(:e_parent::text[], :e_child::text[], :e_run::boolean[]) AS x(parent, child, run)
        WHERE x.child = ANY(:stored::text[])";

    /// Tells why tasks weren't stored, or, with `:only_together`, whether those of batches that stand or fall
    /// together will be: the transitions beside them may free their slots.
    EXAMINE_INSERTS = "
        SELECT array_agg(what), array_agg(step), array_agg(task), array_agg(state), array_agg(rev),
            array_agg(fence), array_agg(cancelling),
            coalesce(array_agg(batch) FILTER (WHERE what BETWEEN 2 AND 7), '{}')
        FROM (
            SELECT x.step, x.batch,
                (CASE WHEN t.how = 4 AND t.digest = x.digest THEN 1 WHEN t.how = 4 THEN 4
                    WHEN t.how = 5 AND t.digest = x.digest THEN 1 WHEN t.how = 5 THEN 5
                    WHEN x.missing IS NOT NULL THEN 7 WHEN t.how = 6 THEN 6 ELSE 8 END)::smallint AS what,
                CASE WHEN x.missing IS NOT NULL AND t.how IS DISTINCT FROM 4 AND t.how IS DISTINCT FROM 5
                    THEN x.missing ELSE t.id END AS task,
                t.state, t.rev, t.fence, t.cancelling
            FROM unnest(:i_step::integer[], :i_batch::integer[], :i_task::text[], :i_key::text[], :i_slot::text[],
                    :i_waits::boolean[], :i_digest::bigint[], :missing::text[])
                AS x(step, batch, task, key, slot, waits, digest, missing)
            LEFT JOIN LATERAL (
                SELECT 4 AS how, id, digest, state, rev, fence, cancel IS NOT NULL AS cancelling
                FROM task WHERE id = x.task
                UNION ALL
                SELECT 5, id, digest, state, rev, fence, cancel IS NOT NULL FROM task WHERE key = x.key
                UNION ALL
                SELECT 6, id, digest, state, rev, fence, cancel IS NOT NULL FROM task
                WHERE slot = x.slot AND slot IS NOT NULL AND state < 4 AND NOT slot_waiting AND x.waits IS NULL
                    AND NOT (x.batch IS NOT NULL AND id IN (
                    SELECT beside.task FROM unnest(:m_batch::integer[], :m_task::text[], :m_target::smallint[])
                        AS beside(batch, task, target)
                    WHERE beside.batch = x.batch AND beside.target > 3))
                ORDER BY how LIMIT 1
            ) AS t ON true
            WHERE x.task <> ALL(:stored::text[]) AND (x.batch IS NULL OR x.batch <> ALL(:refused::integer[]))
                AND (x.batch IS NOT NULL OR NOT :only_together::boolean)
        ) AS examined";

    // ---- children ----

    /// Locks the waiting children of ended tasks, in order of id.
    LOCK_CHILDREN = "
        SELECT array_agg(id)
        FROM (SELECT id FROM task
              WHERE id = ANY(ARRAY(SELECT child FROM edge WHERE parent = ANY(:ended::text[]) AND NOT gone))
                AND state = 0
              ORDER BY id FOR UPDATE) AS locked";

    /// Releases them: an edge that is satisfied takes one off the child's counter; one that isn't fails the child. One
    /// that waits for its slot as well goes on waiting.
    RELEASE = "
        WITH released AS (
            UPDATE task AS c SET
                rev = c.rev + 1,
                parents_pending = c.parents_pending - e.satisfied,
                state = CASE WHEN e.failed IS NOT NULL THEN 5 WHEN c.parents_pending > e.satisfied OR c.slot_waiting THEN 0
                    WHEN c.due_at > :now::bigint THEN 1 ELSE 2 END,
                cause = CASE WHEN e.failed IS NULL THEN c.cause ELSE 'dependency_failed' END,
                error = coalesce(e.failed, c.error),
                ended_at = CASE WHEN e.failed IS NOT NULL THEN moment(:clock::bigint) END
            FROM (SELECT edge.child, (count(*) FILTER (WHERE p.state = 4 OR edge.run))::integer AS satisfied,
                    min('parent ' || p.id || CASE p.state WHEN 5 THEN ' failed' ELSE ' was cancelled' END)
                        FILTER (WHERE p.state > 4 AND NOT edge.run) AS failed
                FROM edge JOIN task AS p ON p.id = edge.parent
                WHERE edge.parent = ANY(:ended::text[]) AND NOT edge.gone
                GROUP BY edge.child) AS e
            WHERE c.id = e.child AND c.state = 0
            RETURNING c.id, c.state, CASE WHEN c.state = 5 AND NOT c.slot_waiting THEN c.slot END AS freed,
                c.key IS NOT NULL AS keyed
        )
        SELECT array_agg(id) FILTER (WHERE state = 5 AND NOT keyed), array_agg(id) FILTER (WHERE state = 5 AND keyed),
            coalesce(bool_or(state = 2), false),
            coalesce(array_agg(freed) FILTER (WHERE freed IS NOT NULL), '{}')
        FROM released";

    // ---- slots ----

    /// Locks the first of those that wait for each slot that was freed and not taken again. One that was cancelled
    /// meanwhile is passed over for the next. Nobody has come to wait since the slot was freed: a newcomer locks the
    /// holder, whose end isn't committed yet.
    LOCK_WAITERS = "
        SELECT array_agg(first.id)
        FROM (SELECT DISTINCT slot FROM unnest(:freed::text[]) AS x(slot) ORDER BY slot) AS free,
            LATERAL (SELECT w.id FROM task AS w
                WHERE w.slot = free.slot AND w.slot_waiting AND w.state = 0
                    AND NOT EXISTS (SELECT 1 FROM task AS h
                        WHERE h.slot = free.slot AND h.slot IS NOT NULL AND h.state < 4 AND NOT h.slot_waiting)
                ORDER BY w.seq LIMIT 1 FOR UPDATE OF w) AS first";

    /// Gives them their slots.
    HAND_OVER = "
        WITH holders AS (
            UPDATE task SET
                slot_waiting = false, rev = rev + 1,
                state = CASE WHEN parents_pending > 0 THEN 0 WHEN due_at > :now::bigint THEN 1 ELSE 2 END
            WHERE id = ANY(:heirs::text[]) AND slot_waiting AND state = 0
            RETURNING state
        )
        SELECT coalesce(bool_or(state = 2), false) FROM holders";

    // ---- ends ----

    /// Lists what the call has ended for those who prune, by outcome and by whether a key has to be kept. An index on
    /// tasks would be written for each of them.
    SHELVE = "
        INSERT INTO ended (shelf, at, size, tasks)
        SELECT x.shelf, moment(:clock::bigint), cardinality(x.tasks), x.tasks
        FROM (VALUES (0::smallint, :ended_well::text[]), (1::smallint, :ended_otherwise::text[]),
            (2::smallint, :ended_well_keyed::text[]), (3::smallint, :ended_otherwise_keyed::text[])) AS x(shelf, tasks)
        WHERE x.tasks IS NOT NULL";

    // ---- queues ----

    /// Waits for the claims that are under way, and keeps others from beginning until the end: a queue that isn't limited
    /// or paused yet has no row that they could have locked.
    LOCK_QUEUES = "LOCK TABLE queue IN EXCLUSIVE MODE";

    /// Sets limits.
    SET_LIMITS = "
        INSERT INTO queue (name, concurrency)
        SELECT x.queue, x.concurrency
        FROM unnest(:l_batch::integer[], :l_queue::text[], :l_concurrency::bigint[]) AS x(batch, queue, concurrency)
        WHERE (x.batch IS NULL OR x.batch <> ALL(:refused::integer[]))
        ORDER BY x.queue
        ON CONFLICT (name) DO UPDATE SET concurrency = excluded.concurrency";
}
