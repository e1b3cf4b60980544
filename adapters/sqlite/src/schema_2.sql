-- Version 2: deadlines, slots that are waited for, pauses, what handlers say while they run, workers, pruning.
-- Names were checked where they entered; lists of names are parted by blanks, which no name has.

-- So that a program of version 1 that is still running fails loudly: it knows nothing of those who wait for a slot.
ALTER TABLE meta RENAME COLUMN clock TO high_water;

-- A queue with neither a limit nor a pause has no row.
CREATE TABLE queue_2 (
    name TEXT PRIMARY KEY,
    concurrency INTEGER CHECK (concurrency >= 0),
    paused INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1))
) STRICT, WITHOUT ROWID;
INSERT INTO queue_2 (name, concurrency) SELECT name, concurrency FROM queue;
DROP TABLE queue;
ALTER TABLE queue_2 RENAME TO queue;

-- Made anew, because a task may now be blocked without waiting for a parent, and a constraint can't be changed.
CREATE TABLE task_2 (
    seq INTEGER PRIMARY KEY, -- the request's
    state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 6),
    rev INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0,
    mark INTEGER NOT NULL DEFAULT 0,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    parents_pending INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    rescues INTEGER NOT NULL DEFAULT 0,
    due_at INTEGER NOT NULL,
    claimed_at INTEGER,
    entered_at INTEGER,
    finished_at INTEGER,
    lease_expires_at INTEGER,
    deadline_at INTEGER,
    worker TEXT,
    slot TEXT,
    slot_waiting INTEGER NOT NULL DEFAULT 0,
    cause TEXT,
    cancel TEXT,
    error TEXT,
    output BLOB,
    CONSTRAINT "only a running task has a lease" CHECK ((state = 3) = (lease_expires_at IS NOT NULL)),
    CONSTRAINT "a given-back attempt was counted" CHECK (attempt >= 0),
    CONSTRAINT "a blocked task waits for a parent or its slot" CHECK (parents_pending + slot_waiting >= (state = 0)),
    CONSTRAINT "only a blocked task waits for its slot" CHECK (slot_waiting <= (state = 0)),
    CONSTRAINT "an error text has no NUL bytes" CHECK (error IS NULL OR instr(error, char(0)) = 0),
    CONSTRAINT "a cancel reason has no NUL bytes" CHECK (cancel IS NULL OR instr(cancel, char(0)) = 0),
    CONSTRAINT "an output has at most 64 MiB" CHECK (output IS NULL OR length(output) <= 67108864)
) STRICT;
INSERT INTO task_2 (seq, state, rev, fence, mark, queue, priority, parents_pending, attempt, rescues, due_at, claimed_at,
    entered_at, finished_at, lease_expires_at, worker, slot, cause, cancel, error, output)
SELECT seq, state, rev, fence, mark, queue, priority, parents_pending, attempt, rescues, due_at, claimed_at,
    entered_at, finished_at, lease_expires_at, worker, slot, cause, cancel, error, output
FROM task ORDER BY seq;
DROP TABLE task;
ALTER TABLE task_2 RENAME TO task;
-- Each also holds seq, as every index does.
CREATE INDEX task_scheduled ON task (queue, due_at) WHERE state = 1;
CREATE INDEX task_ready ON task (queue, priority) WHERE state = 2;
CREATE INDEX task_running ON task (queue) WHERE state = 3; -- not the lease, so that a renewal leaves it alone
CREATE INDEX task_ended ON task (state, finished_at) WHERE state > 3;

-- Who waits for which slot, in the order of arrival: a row until the slot is theirs, or until they end.
CREATE TABLE slot_waiter (
    name TEXT NOT NULL,
    task INTEGER NOT NULL,
    PRIMARY KEY (name, task)
) STRICT, WITHOUT ROWID;

-- When unfinished tasks fail: a row from the insert to the end.
CREATE TABLE deadline (
    at INTEGER NOT NULL,
    task INTEGER NOT NULL,
    PRIMARY KEY (at, task)
) STRICT, WITHOUT ROWID;

CREATE INDEX edge_child ON edge (child);

-- The parents of a task that were pruned.
CREATE TABLE forgotten_parent (
    child INTEGER NOT NULL,
    id TEXT NOT NULL,
    on_failure TEXT NOT NULL,
    PRIMARY KEY (child, id)
) STRICT, WITHOUT ROWID;

-- What the handler of an attempt last said. Only the row of a task's current fence counts: so a claim needn't clear it.
CREATE TABLE report (
    task INTEGER PRIMARY KEY,
    fence INTEGER NOT NULL,
    reported_at INTEGER NOT NULL,
    percent INTEGER,
    message TEXT,
    CONSTRAINT "a progress message has no NUL bytes" CHECK (message IS NULL OR instr(message, char(0)) = 0)
) STRICT;

CREATE TABLE log_line (
    task INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    stream TEXT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (task, fence, number),
    CONSTRAINT "a line of log has no NUL bytes" CHECK (instr(text, char(0)) = 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoint (
    task INTEGER NOT NULL,
    name TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (task, name),
    CONSTRAINT "a checkpoint's name has no NUL bytes" CHECK (instr(name, char(0)) = 0),
    CONSTRAINT "a checkpoint's value has at most 64 MiB" CHECK (length(value) <= 67108864)
) STRICT, WITHOUT ROWID;

CREATE TABLE alias (
    name TEXT PRIMARY KEY,
    task INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX alias_task ON alias (task);

CREATE TABLE worker (
    id TEXT PRIMARY KEY,
    queues TEXT NOT NULL,
    kinds TEXT NOT NULL,
    concurrency INTEGER NOT NULL,
    running INTEGER NOT NULL,
    gone INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
