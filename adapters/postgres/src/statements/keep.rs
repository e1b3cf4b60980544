//! The statements for what stands alone in its batch: reports, pauses, beats and pruning. They are another function's
//! than the others, so that settling and submitting don't carry their parameters.

use super::Statement;

statements! {
    // ---- reports ----

    /// Locks the tasks that are reported of, in order of id, where a report brings an alias: none ends before it has it.
    LOCK_REPORTED = "
        SELECT count(*)
        FROM (SELECT id FROM task WHERE id = ANY(:k_task::text[]) ORDER BY id FOR NO KEY UPDATE) AS locked";

    /// Stores aliases of running tasks, but for those that belong to others.
    GIVE_ALIASES = "
        INSERT INTO alias (alias, task)
        SELECT x.alias, x.task
        FROM unnest(:k_task::text[], :k_fence::bigint[], :k_alias::text[]) AS x(task, fence, alias)
        JOIN task AS t ON t.id = x.task
        WHERE x.alias <> x.task AND t.state = 3 AND t.fence = x.fence
            AND NOT EXISTS (SELECT 1 FROM task AS o WHERE o.id = x.alias)
        ORDER BY x.alias, x.task
        ON CONFLICT DO NOTHING";

    /// Which aliases belong to others, and to whom.
    FIND_TAKEN = "
        SELECT array_agg(9::smallint), array_agg(step), array_agg(owner)
        FROM (SELECT x.step, coalesce(o.id, a.task) AS owner
            FROM unnest(:k_step::integer[], :k_task::text[], :k_fence::bigint[], :k_alias::text[])
                AS x(step, task, fence, alias)
            JOIN task AS t ON t.id = x.task
            LEFT JOIN task AS o ON o.id = x.alias
            LEFT JOIN alias AS a ON a.alias = x.alias
            WHERE x.alias <> x.task AND t.state = 3 AND t.fence = x.fence
                AND a.task IS DISTINCT FROM x.task AND coalesce(o.id, a.task) IS NOT NULL) AS taken";

    /// Whether a report's alias belongs to nobody: whoever was in its way was forgotten in between.
    FIND_UNGIVEN = "
        SELECT EXISTS (
            SELECT 1 FROM unnest(:k_step::integer[], :k_task::text[], :k_fence::bigint[], :k_alias::text[])
                AS x(step, task, fence, alias)
            JOIN task AS t ON t.id = x.task
            WHERE x.alias <> x.task AND t.state = 3 AND t.fence = x.fence AND x.step <> ALL(:taken::integer[])
                AND NOT EXISTS (SELECT 1 FROM alias AS a WHERE a.alias = x.alias AND a.task = x.task))";

    /// Keeps what is kept in the task's own row, in order of id, as the arrays are.
    REPORT = "
        WITH reported AS (
            UPDATE task AS t SET
                reported_at = moment(:clock::bigint),
                rev = t.rev + CASE WHEN x.percent IS NULL THEN 0 ELSE 1 END,
                percent = coalesce(x.percent, t.percent),
                message = CASE WHEN x.percent IS NULL THEN t.message ELSE x.message END
            FROM (
                SELECT unnest(:k_step::integer[]) AS step, unnest(:k_task::text[]) AS task,
                    unnest(:k_fence::bigint[]) AS fence, unnest(:k_percent::smallint[]) AS percent,
                    unnest(:k_message::text[]) AS message
            ) AS x
            WHERE t.id = x.task AND t.state = 3 AND t.fence = x.fence AND x.step <> ALL(:taken::integer[])
            RETURNING x.step
        )
        SELECT array_agg(step) FROM reported";

    /// Tells why reports weren't kept.
    EXAMINE_REPORTS = "
        SELECT array_agg(what), array_agg(step), array_agg(state), array_agg(rev), array_agg(fence),
            array_agg(cancelling)
        FROM (
            SELECT x.step, t.state, t.rev, t.fence, t.cancel IS NOT NULL AS cancelling,
                (CASE WHEN t.id IS NULL THEN 2 WHEN t.state = 3 AND t.fence = x.fence THEN 8 ELSE 3 END)::smallint
                    AS what
            FROM unnest(:k_step::integer[], :k_task::text[], :k_fence::bigint[]) AS x(step, task, fence)
            LEFT JOIN task AS t ON t.id = x.task
            WHERE x.step <> ALL(:done::integer[]) AND x.step <> ALL(:taken::integer[])
        ) AS examined";

    /// Keeps lines of logs.
    KEEP_LINES = "
        INSERT INTO log (task, fence, number, at, stream, text)
        SELECT x.task, x.fence, x.number, moment(:clock::bigint) - x.ago, x.stream, x.text
        FROM unnest(:g_step::integer[], :g_task::text[], :g_fence::bigint[], :g_number::bigint[], :g_ago::bigint[],
                :g_stream::text[], :g_text::text[]) AS x(step, task, fence, number, ago, stream, text)
        WHERE x.step = ANY(:done::integer[])
        ON CONFLICT DO NOTHING";

    /// Keeps finished steps.
    KEEP_CHECKPOINTS = "
        INSERT INTO checkpoint (task, name, value)
        SELECT x.task, x.name, x.value
        FROM unnest(:c_step::integer[], :c_task::text[], :c_name::text[], :c_value::bytea[])
            AS x(step, task, name, value)
        WHERE x.step = ANY(:done::integer[])
        ON CONFLICT (task, name) DO UPDATE SET value = excluded.value";

    // ---- queues and workers ----

    /// Pauses and resumes queues.
    PAUSE = "
        INSERT INTO queue (name, paused)
        SELECT x.queue, x.paused FROM unnest(:q_queue::text[], :q_paused::boolean[]) AS x(queue, paused)
        ORDER BY x.queue
        ON CONFLICT (name) DO UPDATE SET paused = excluded.paused";

    /// Notes that workers live. Their queues and kinds are words, between commas.
    BEAT = "
        INSERT INTO worker (id, queues, kinds, concurrency, running, gone, started_at, seen_at)
        SELECT x.worker, string_to_array(x.queues, ','), string_to_array(x.kinds, ','), x.concurrency, x.running,
            x.gone, moment(:clock::bigint), moment(:clock::bigint)
        FROM unnest(:b_worker::text[], :b_queues::text[], :b_kinds::text[], :b_concurrency::bigint[],
                :b_running::bigint[], :b_gone::boolean[]) AS x(worker, queues, kinds, concurrency, running, gone)
        ORDER BY x.worker
        ON CONFLICT (id) DO UPDATE SET queues = excluded.queues, kinds = excluded.kinds,
            concurrency = excluded.concurrency, running = excluded.running, gone = excluded.gone,
            seen_at = greatest(worker.seen_at, excluded.seen_at)";

    // ---- pruning ----

    /// Chooses and locks as many of the shelves' oldest lists as hold the tasks that are wanted. What another pruner has
    /// locked is left to it.
    CHOOSE_LISTS = "
        SELECT array_agg(number)
        FROM (SELECT number FROM ended WHERE number = ANY(ARRAY(
                SELECT number FROM (
                    SELECT number, sum(size) OVER (ORDER BY at, number) - size AS before FROM (
                        (SELECT number, at, size FROM ended WHERE shelf = 0 AND at <= :now::bigint - :succeeded::bigint
                        ORDER BY at, number LIMIT :max::bigint)
                        UNION ALL
                        (SELECT number, at, size FROM ended WHERE shelf = 1 AND at <= :now::bigint - :otherwise::bigint
                        ORDER BY at, number LIMIT :max::bigint)
                        UNION ALL
                        (SELECT number, at, size FROM ended
                        WHERE shelf = 2 AND at <= :now::bigint - greatest(:succeeded::bigint, :kept::bigint)
                        ORDER BY at, number LIMIT :max::bigint)
                        UNION ALL
                        (SELECT number, at, size FROM ended
                        WHERE shelf = 3 AND at <= :now::bigint - greatest(:otherwise::bigint, :kept::bigint)
                        ORDER BY at, number LIMIT :max::bigint)
                    ) AS fronts
                ) AS counted WHERE before < :max::bigint))
            FOR UPDATE SKIP LOCKED) AS locked";

    /// Chooses their tasks, the longest ended first, and locks them. What somebody else has locked, one who adds a
    /// child, is left for another time. A task's own time decides: its list may be an older one's of the same id.
    CHOOSE_ENDED = "
        SELECT coalesce(array_agg(id), '{}')
        FROM (SELECT id FROM task WHERE id = ANY(ARRAY(
                SELECT x.id FROM ended, unnest(tasks) WITH ORDINALITY AS x(id, place)
                WHERE number = ANY(:lists::bigint[]) ORDER BY at, number, place LIMIT :max::bigint))
                AND state > 3
                AND ended_at <= :now::bigint - CASE state WHEN 4 THEN :succeeded::bigint ELSE :otherwise::bigint END
                AND (key IS NULL OR ended_at <= :now::bigint - :kept::bigint)
            FOR UPDATE SKIP LOCKED) AS locked";

    /// Lists again those that weren't forgotten, in parts: a parent may have ended any number of tasks in one call.
    SHELVE_AGAIN = "
        INSERT INTO ended (shelf, at, size, tasks)
        SELECT ended.shelf, ended.at, count(*), array_agg(x.id ORDER BY x.place)
        FROM ended, unnest(tasks) WITH ORDINALITY AS x(id, place)
        WHERE number = ANY(:lists::bigint[]) AND EXISTS (SELECT 1 FROM task WHERE task.id = x.id AND state > 3)
        GROUP BY number, (x.place - 1) / 1000
        ORDER BY number, (x.place - 1) / 1000";

    /// Takes the lists away.
    REMOVE_LISTS = "DELETE FROM ended WHERE number = ANY(:lists::bigint[])";

    /// Forgets what belongs to them.
    FORGET_ATTEMPTS = "DELETE FROM attempt WHERE task = ANY(:forgotten::text[])";
    /// As `FORGET_ATTEMPTS`.
    FORGET_LINES = "DELETE FROM log WHERE task = ANY(:forgotten::text[])";
    /// As `FORGET_ATTEMPTS`.
    FORGET_CHECKPOINTS = "DELETE FROM checkpoint WHERE task = ANY(:forgotten::text[])";
    /// As `FORGET_ATTEMPTS`.
    FORGET_ALIASES = "DELETE FROM alias WHERE task = ANY(:forgotten::text[])";
    /// Forgets whose children they were.
    FORGET_EDGES = "DELETE FROM edge WHERE child = ANY(:forgotten::text[])";
    /// Their own children still know that they had these parents. A later task of the same id isn't that parent.
    PART_EDGES = "UPDATE edge SET gone = true WHERE parent = ANY(:forgotten::text[]) AND NOT gone";
    /// Forgets them.
    FORGET_TASKS = "DELETE FROM task WHERE id = ANY(:forgotten::text[])";

    /// Forgets workers that weren't seen for long and hold nothing.
    FORGET_WORKERS = "
        DELETE FROM worker
        WHERE seen_at <= :now::bigint - :otherwise::bigint
            AND id <> ALL(ARRAY(SELECT worker FROM task WHERE state = 3))";
}
