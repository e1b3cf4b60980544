//! The functions on the server. Three are the whole of a call: each called as one autocommitted statement: one
//! transaction, one round trip, and no BEGIN or COMMIT that could be lost on the way.
//!
//! A function is the [statements](crate::statements) in their order and as little glue as possible. (The clock is read,
//! and others are notified, by expressions: as statements they are some four to ten times the work, which counts where a
//! call has one task.) It is VOLATILE, so that under READ COMMITTED every statement in it has a snapshot of its own, as if
//! a client had sent it. Its name ends in a hash of its text: servers of several versions can share a database while they
//! are being replaced, if they know the same schema.

use postgres_types::Type;
use steadfast_core::task::KEY_KEPT;
use steadfast_core::time::micros;

use crate::columns::Columns;
use crate::keep::Keeping;
use crate::statements as s;

/// What a function raises where a call has to be sent again: things changed between two of its statements.
pub(crate) const CHANGED_BETWEEN: &str = "SF001";
/// What a function raises at any other isolation level than READ COMMITTED.
pub(crate) const WRONG_ISOLATION: &str = "SF002";
/// What is raised where a caller's transaction is one on another store.
pub(crate) const OTHER_STORE: &str = "SF003";
/// How long a submit in the caller's own transaction waits for a lock.
const LOCK_WAIT_VISITING: &str = "5s";
/// How often a submit in the caller's own transaction is tried where things changed under it.
const VISITING_TRIES_MAX: u32 = 10;
/// How long a call of several batches waits for a lock: somebody who holds one for long must hold up nobody but those
/// who need it. A call that stands alone waits as long as its session's setting says.
const LOCK_WAIT_MERGED: &str = "40ms";
/// How long a commit may wait for another that notifies at the same time: they go one by one, each with its write to
/// disk, and what was done shouldn't be thrown away for that.
const LOCK_WAIT_NOTIFY: &str = "5s";

/// A function on the server.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    /// Its name, without the schema.
    pub(crate) name: String,
    /// The statement that creates it.
    pub(crate) definition: String,
}

impl Function {
    fn new(name: &str, parameters: &str, returns: &str, body: &str) -> Self {
        Self::with_settings(name, parameters, returns, "", body)
    }

    fn with_settings(name: &str, parameters: &str, returns: &str, settings: &str, body: &str) -> Self {
        let text = format!(
            "({parameters}) RETURNS TABLE ({returns}) LANGUAGE plpgsql VOLATILE {settings}AS $${body}$$"
        );
        let name = format!("{name}_{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
        let definition = format!("CREATE FUNCTION {name} {text}");
        Self { name, definition }
    }

    /// `claim(worker, queues, kinds, max, lease, clock)`.
    pub(crate) fn claim() -> Self {
        let parameters =
            "_worker text, _queues text[], _kinds text[], _max bigint, _lease bigint, _clock bigint";
        let returns = "o_task text, o_fence bigint, o_kind text, o_queue text, o_slot text, o_payload bytea, \
            o_attempt integer, o_attempts_max bigint, o_timeout bigint, o_backoff_min bigint, o_backoff_max bigint, \
            o_priority smallint, o_seq bigint, o_deadline bigint, o_next_due bigint";
        Self::new("claim", parameters, returns, &fill(CLAIM_BODY))
    }

    /// `apply` with the parameters of [`Columns`].
    pub(crate) fn apply(schema: &str) -> Self {
        let body =
            APPLY_BODY.replace("{JUDGE}", JUDGE).replace("{NOTIFY}", NOTIFY).replace("{channel}", schema);
        let visits = "_visiting AND cardinality(_m_step) = 0";
        let body = body.replacen("{CHECK}", &CHECK.replace("IF ", &format!("IF NOT ({visits}) AND ")), 1);
        Self::new("apply", &parameters(Columns::PARAMETERS), ANSWER, &fill(&body))
    }

    /// `keep` with the parameters of [`Keeping`]; it answers as `apply` does.
    pub(crate) fn keep(schema: &str) -> Self {
        let body = KEEP_BODY.replace("{NOTIFY}", NOTIFY).replace("{channel}", schema);
        Self::new("keep", &parameters(Keeping::PARAMETERS), ANSWER, &fill(&body))
    }

    /// `submit` with the store's identity and the parameters of `apply`, for a session that isn't ours: it brings its own
    /// settings, and gives the session its own back. What it can tell without ending the caller's transaction stands
    /// in a column of its own.
    pub(crate) fn submit(schema: &str, apply: &Function) -> Self {
        let names: Vec<String> = Columns::PARAMETERS.iter().map(|(name, _)| format!("_{name}")).collect();
        let body = SUBMIT_BODY.replace("{apply}", &apply.name).replace("{names}", &names.join(", "));
        let body = body.replace("{tries_max}", &VISITING_TRIES_MAX.to_string());
        let settings = format!(
            "SET search_path = {schema}, pg_temp SET lock_timeout = '{LOCK_WAIT_VISITING}' {} ",
            PLANNER.map(|setting| format!("SET {setting}")).join(" ")
        );
        let parameters = format!("_store text, {}", parameters(Columns::PARAMETERS));
        let returns = format!("{ANSWER}, o_error text");
        Self::with_settings("submit", &parameters, &returns, &settings, &fill(&body))
    }
}

/// What the planner is told: statements always use the indexes, also while statistics are stale.
pub(crate) const PLANNER: [&str; 9] = [
    "plan_cache_mode = force_generic_plan",
    "jit = off",
    "enable_nestloop = on",
    "enable_indexscan = on",
    "enable_tidscan = on",
    "enable_seqscan = off",
    "enable_bitmapscan = off",
    "enable_hashjoin = off",
    "enable_mergejoin = off",
];

/// The columns that `apply` and `keep` answer with.
const ANSWER: &str = "o_what smallint[], o_step integer[], o_task text[], o_state smallint[], o_rev bigint[], \
    o_fence bigint[], o_cancelling boolean[], o_cancel text[], o_hints smallint";

fn parameters(parameters: &[(&str, Type)]) -> String {
    let parameters: Vec<String> = parameters.iter().map(|(name, kind)| format!("_{name} {kind}")).collect();
    parameters.join(", ")
}

/// Puts the statements in where their names stand in braces.
fn fill(body: &str) -> String {
    let mut body = body.replace("{CHECK}", CHECK).replace("{VERIFY}", VERIFY);
    for statement in s::all() {
        body = body.replace(&format!("{{{}}}", statement.name), statement.embedded().trim());
    }
    body = body.replace("{changed_between}", CHANGED_BETWEEN).replace("{wrong_isolation}", WRONG_ISOLATION);
    body = body.replace("{other_store}", OTHER_STORE);
    body = body.replace("{wait_merged}", LOCK_WAIT_MERGED).replace("{wait_notify}", LOCK_WAIT_NOTIFY);
    body = body.replace("{free}", &s::FREE.to_string());
    body = body.replace("{key_kept}", &micros(KEY_KEPT).to_string());
    body.replace("{promoted_max}", &s::PROMOTED_MAX.to_string())
}

/// The rules were proven for READ COMMITTED, and don't hold at any other level.
const CHECK: &str = "
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'steadfast needs READ COMMITTED' USING ERRCODE = '{wrong_isolation}';
    END IF;";

/// Wakes others. Where the server's queue of notifications is nearly full, because somebody listens in a transaction that
/// goes on and on, nobody is woken: the commit would fail for it, and a worker looks by itself every now and then.
const NOTIFY: &str = "IF o_hints > 0 AND pg_notification_queue_usage() < 0.9 THEN
        IF set_config('lock_timeout', '{wait_notify}', true) IS NOT NULL
            AND pg_notify('{channel}', o_hints::text) IS NOT NULL
        THEN
            NULL;
        END IF;
    END IF;";

/// A batch that was found good must not be refused half-way, and a refusal must have a reason.
const VERIFY: &str = "
            IF {free} = ANY(o_what) OR 0 < ANY(_bad) THEN
                RAISE EXCEPTION 'changed in between' USING ERRCODE = '{changed_between}';
            END IF;";

const CLAIM_BODY: &str = "
DECLARE
    _now bigint;
    _since bigint;
    _queue text;
    _left bigint := _max;
    _room bigint;
    _limited text[];
    _limits bigint[];
    _count bigint;
    _more_due boolean := false;
BEGIN{CHECK}
    {LOCK_LIMITS} INTO _limited, _limits;
    FOREACH _queue IN ARRAY _queues LOOP
        EXIT WHEN _left <= 0;
        _now := moment(_clock);
        _since := coalesce(_since, _now);
        {PROMOTE};
        GET DIAGNOSTICS _count = ROW_COUNT;
        _more_due := _more_due OR _count >= {promoted_max};
        _room := _left;
        IF _queue = ANY(_limited) THEN
            {COUNT_RUNNING} INTO _count;
            _room := least(_room, _limits[array_position(_limited, _queue)] - _count);
        END IF;
        CONTINUE WHEN _room <= 0;
        RETURN QUERY {CLAIM};
        GET DIAGNOSTICS _count = ROW_COUNT;
        _left := _left - _count;
    END LOOP;
    IF _left > 0 THEN
        _now := moment(_clock);
        {NEXT_DUE} INTO o_next_due;
        IF _more_due THEN
            o_next_due := 0;
        END IF;
        RETURN NEXT;
    END IF;
END";

/// What the parents mean for each new task: `decide::edge`, once they are locked. A parent that isn't there counts as
/// waiting where the same batch stores it first.
const JUDGE: &str = "
        _states := array_fill(-1::smallint, ARRAY[cardinality(_parents)]);
        FOR _parent IN {LOCK_PARENTS} LOOP
            _states[_parent.place] := _parent.state;
        END LOOP;
        _pending := array_fill(0, ARRAY[cardinality(_i_step)]);
        _failed := array_fill(NULL::text, ARRAY[cardinality(_i_step)]);
        _missing := _failed;
        FOR _edge IN 1 .. cardinality(_e_at) LOOP
            _at := _e_at[_edge];
            _state := _states[_e_place[_edge]];
            _beside := _e_beside[_edge];
            IF _state = -1 AND _beside > 0 THEN
                _key := _i_key[_beside];
                {FIND_KEY} INTO _known;
                IF NOT _known THEN
                    _state := CASE WHEN _failed[_beside] IS NULL THEN 0 ELSE 5 END;
                END IF;
            END IF;
            IF _state = -1 THEN
                _missing[_at] := coalesce(_missing[_at], _e_parent[_edge]);
            ELSIF _state < 4 THEN
                _pending[_at] := _pending[_at] + 1;
                -- A claim that came by meanwhile has skipped the parent.
                _ready := _ready OR _state = 2;
            ELSIF _state > 4 AND NOT _e_run[_edge] THEN
                _failed[_at] := coalesce(_failed[_at], 'parent ' || _e_parent[_edge]
                    || CASE _state WHEN 5 THEN ' failed' ELSE ' was cancelled' END);
            END IF;
        END LOOP;";

const APPLY_BODY: &str = "
DECLARE
    _now bigint;
    _count bigint;
    _only_together boolean := false;
    _refused integer[] := '{}';
    _bad integer[];
    _done integer[] := '{}';
    _ended text[];
    _ended_well text[];
    _ended_otherwise text[];
    _ended_well_keyed text[];
    _ended_otherwise_keyed text[];
    _more text[];
    _more_keyed text[];
    _again text[];
    _again_attempt integer[];
    _children text[];
    _stored text[] := '{}';
    _some_ready boolean;
    _some_displaced boolean;
    _ready boolean := false;
    _changed boolean := false;
    _released boolean := false;
    _parent record;
    _states smallint[];
    _pending integer[];
    _failed text[];
    _missing text[];
    _at integer;
    _state smallint;
    _beside integer;
    _key text;
    _known boolean;
    _some text[];
    _freed text[] := '{}';
    _held text[] := '{}';
    _waiting boolean[];
    _heirs text[];
BEGIN{CHECK}
    IF NOT _alone THEN
        PERFORM set_config('lock_timeout', '{wait_merged}', true);
    END IF;
    IF NOT _first_wave THEN
        _freed := current_setting('steadfast.freed')::text[];
    END IF;
    _now := moment(_clock);
    IF _ordered THEN
        {LOCK_TASKS} INTO _count;
    END IF;

    -- Batches that stand or fall together are judged before anything of them is written.
    IF _together THEN
        IF cardinality(_e_at) > 0 THEN{JUDGE}
        END IF;
        _only_together := true;
        {EXAMINE_MOVES} INTO o_what, o_step, o_state, o_rev, o_fence, o_cancelling, _bad;
        _refused := _refused || _bad;
        RETURN NEXT;
        {EXAMINE_RENEWALS} INTO o_what, o_step, o_state, o_rev, o_fence, o_cancelling, _bad;
        _refused := _refused || _bad;
        RETURN NEXT;
        {EXAMINE_INSERTS} INTO o_what, o_step, o_task, o_state, o_rev, o_fence, o_cancelling, _bad;
        _refused := _refused || _bad;
        RETURN NEXT;
        o_task := NULL;
        _only_together := false;
    END IF;

    -- First all tasks,
    IF cardinality(_m_step) > 0 THEN
        {MOVE} INTO o_step, o_state, o_rev, o_fence, o_cancelling, _ended_well, _ended_otherwise, _ended_well_keyed,
            _ended_otherwise_keyed, _again, _again_attempt, _some_ready, _some_displaced, _some;
        o_what := NULL;
        RETURN NEXT;
        _ended := _ended_well || _ended_otherwise || _ended_well_keyed || _ended_otherwise_keyed;
        _freed := _freed || _some;
        _ready := _some_ready;
        _changed := _some_displaced;
        IF _again IS NOT NULL THEN
            {KEEP_ATTEMPTS};
        END IF;
        _done := coalesce(o_step, '{}');
        IF cardinality(_done) < cardinality(_m_step) THEN
            {EXAMINE_MOVES} INTO o_what, o_step, o_state, o_rev, o_fence, o_cancelling, _bad;{VERIFY}
            RETURN NEXT;
        END IF;
    END IF;
    IF cardinality(_r_step) > 0 THEN
        {RENEW} INTO o_step, o_cancel;
        o_what := NULL; o_state := NULL; o_rev := NULL; o_fence := NULL; o_cancelling := NULL;
        RETURN NEXT;
        o_cancel := NULL;
        _done := coalesce(o_step, '{}');
        IF cardinality(_done) < cardinality(_r_step) THEN
            {EXAMINE_RENEWALS} INTO o_what, o_step, o_state, o_rev, o_fence, o_cancelling, _bad;{VERIFY}
            RETURN NEXT;
        END IF;
    END IF;

    -- then all parents, and those that hold what is waited for,
    IF cardinality(_e_at) > 0 THEN{JUDGE}
    END IF;
    IF cardinality(_slots) > 0 THEN
        {LOCK_HOLDERS} INTO _held, _some_ready;
        -- A claim that came by meanwhile has skipped the holder.
        _ready := _ready OR _some_ready;
        -- Of the slots that the call has freed, an earlier wave may have given some away again.
        _freed := ARRAY(SELECT unnest(_freed) EXCEPT SELECT unnest(_held));
    END IF;

    -- then all children, and theirs.
    WHILE _ended IS NOT NULL LOOP
        {LOCK_CHILDREN} INTO _children;
        EXIT WHEN _children IS NULL;
        {RELEASE} INTO _more, _more_keyed, _some_ready, _some;
        _ended := _more || _more_keyed;
        _ended_otherwise := _ended_otherwise || _more;
        _ended_otherwise_keyed := _ended_otherwise_keyed || _more_keyed;
        _freed := _freed || _some;
        _ready := _ready OR _some_ready;
        _released := true;
    END LOOP;

    IF cardinality(_i_step) > 0 THEN
        IF _released AND cardinality(_e_at) > 0 THEN{JUDGE}
        END IF;
        IF cardinality(_slots) > 0 THEN
            {FIND_WAITING} INTO _waiting;
        END IF;
        _now := moment(_clock);
        {INSERT} INTO o_task, o_state, o_rev, _some_ready, _more, _more_keyed;
        o_what := NULL; o_step := NULL; o_fence := NULL; o_cancelling := NULL;
        RETURN NEXT;
        _ready := _ready OR _some_ready;
        _stored := coalesce(o_task, '{}');
        _ended_otherwise := _ended_otherwise || _more;
        _ended_otherwise_keyed := _ended_otherwise_keyed || _more_keyed;
        IF cardinality(_e_at) > 0 THEN
            {INSERT_EDGES};
        END IF;
        IF _together AND cardinality(_e_at) > 0 THEN
            {FIND_ORPHANED} INTO _known;
            IF _known THEN
                RAISE EXCEPTION 'changed in between' USING ERRCODE = '{changed_between}';
            END IF;
        END IF;
        IF cardinality(_stored) < cardinality(_i_step) THEN
            {EXAMINE_INSERTS} INTO o_what, o_step, o_task, o_state, o_rev, o_fence, o_cancelling, _bad;{VERIFY}
            RETURN NEXT;
        END IF;
        IF cardinality(_slots) > 0 THEN
            {FIND_STRANDED} INTO _known;
            IF _known THEN
                RAISE EXCEPTION 'changed in between' USING ERRCODE = '{changed_between}';
            END IF;
        END IF;
    END IF;
    IF cardinality(_l_queue) > 0 THEN
        {LOCK_QUEUES};
        {SET_LIMITS};
        _ready := true;
    END IF;

    -- Last of all in the call, slots that were freed go to those who wait for them.
    IF NOT _last_wave THEN
        PERFORM set_config('steadfast.freed', _freed::text, true);
    ELSIF cardinality(_freed) > 0 THEN
        {LOCK_WAITERS} INTO _heirs;
        IF _heirs IS NOT NULL THEN
            _now := moment(_clock);
            {HAND_OVER} INTO _some_ready;
            _ready := _ready OR _some_ready;
        END IF;
    END IF;

    IF coalesce(_ended_well, _ended_otherwise, _ended_well_keyed, _ended_otherwise_keyed) IS NOT NULL THEN
        {SHELVE};
    END IF;

    o_what := NULL; o_step := NULL; o_task := NULL; o_state := NULL; o_rev := NULL; o_fence := NULL;
    o_cancelling := NULL;
    o_hints := _ready::integer + 2 * _changed::integer;
    RETURN NEXT;
    {NOTIFY}
END";

/// A prune is one after the other; all else is one set each. The lock order of `apply` comes first: what is locked here
/// is locked after it.
const KEEP_BODY: &str = "
DECLARE
    _now bigint;
    _count bigint;
    _taken integer[] := '{}';
    _ungiven boolean;
    _done integer[] := '{}';
    _succeeded bigint;
    _otherwise bigint;
    _max bigint;
    _kept bigint := {key_kept};
    _lists bigint[];
    _forgotten text[];
BEGIN{CHECK}
    IF NOT _alone THEN
        PERFORM set_config('lock_timeout', '{wait_merged}', true);
    END IF;
    IF cardinality(_k_step) > 0 THEN
        IF _k_alias IS NOT NULL THEN
            {LOCK_REPORTED} INTO _count;
            {GIVE_ALIASES};
            {FIND_TAKEN} INTO o_what, o_step, o_task;
            RETURN NEXT;
            _taken := coalesce(o_step, '{}');
            o_task := NULL;
            {FIND_UNGIVEN} INTO _ungiven;
            IF _ungiven THEN
                RAISE EXCEPTION 'changed in between' USING ERRCODE = '{changed_between}';
            END IF;
        END IF;
        {REPORT} INTO o_step;
        o_what := NULL;
        RETURN NEXT;
        _done := coalesce(o_step, '{}');
        IF cardinality(_done) + cardinality(_taken) < cardinality(_k_step) THEN
            {EXAMINE_REPORTS} INTO o_what, o_step, o_state, o_rev, o_fence, o_cancelling;
            IF {free} = ANY(o_what) THEN
                RAISE EXCEPTION 'changed in between' USING ERRCODE = '{changed_between}';
            END IF;
            RETURN NEXT;
            o_state := NULL; o_rev := NULL; o_fence := NULL; o_cancelling := NULL;
        END IF;
        IF cardinality(_g_step) > 0 THEN
            {KEEP_LINES};
        END IF;
        IF cardinality(_c_step) > 0 THEN
            {KEEP_CHECKPOINTS};
        END IF;
    END IF;
    IF cardinality(_b_worker) > 0 THEN
        {BEAT};
    END IF;
    FOR _prune IN 1 .. cardinality(_p_step) LOOP
        _now := moment(_clock);
        _succeeded := _p_succeeded[_prune];
        _otherwise := _p_otherwise[_prune];
        _max := _p_limit[_prune];
        _forgotten := '{}';
        {CHOOSE_LISTS} INTO _lists;
        IF _lists IS NOT NULL THEN
            {CHOOSE_ENDED} INTO _forgotten;
            {FORGET_ATTEMPTS};
            {FORGET_LINES};
            {FORGET_CHECKPOINTS};
            {FORGET_ALIASES};
            {FORGET_EDGES};
            {PART_EDGES};
            {FORGET_TASKS};
            {SHELVE_AGAIN};
            {REMOVE_LISTS};
        END IF;
        {FORGET_WORKERS};
        o_what := NULL; o_task := NULL;
        o_step := ARRAY[_p_step[_prune]];
        o_rev := ARRAY[cardinality(_forgotten)];
        RETURN NEXT;
    END LOOP;
    -- Last, because no queue is claimed from until the end.
    IF cardinality(_q_queue) > 0 THEN
        {LOCK_QUEUES};
        {PAUSE};
    END IF;
    o_what := NULL; o_step := NULL; o_task := NULL; o_rev := NULL;
    o_hints := (false = ANY(_q_paused))::integer;
    RETURN NEXT;
    {NOTIFY}
END";

/// Each try is a subtransaction: what is refused, can't be stored or waits too long leaves the caller's transaction
/// usable. What ends it in any case, like a failed serialization, ends it.
const SUBMIT_BODY: &str = "
BEGIN
    IF NOT EXISTS (SELECT 1 FROM meta WHERE store = _store) THEN
        RAISE EXCEPTION 'this transaction is not one on the store %', _store USING ERRCODE = '{other_store}';
    END IF;
    FOR _try IN 1 .. {tries_max} LOOP
        BEGIN
            RETURN QUERY SELECT answer.*, NULL::text FROM {apply}({names}) AS answer;
            RETURN;
        EXCEPTION
            WHEN SQLSTATE '{changed_between}' THEN
                o_error := SQLSTATE;
            WHEN SQLSTATE '{wrong_isolation}' OR lock_not_available OR deadlock_detected OR query_canceled OR data_exception
                OR integrity_constraint_violation OR program_limit_exceeded THEN
                o_error := SQLSTATE;
                EXIT;
        END;
    END LOOP;
    RETURN NEXT;
END";
