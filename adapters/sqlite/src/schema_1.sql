-- Version 1. Times are microseconds since the Unix epoch by the store's clock, durations microseconds; states have
-- the codes of `State`, causes and policies are their words. Names were checked where they entered; checked here is what
-- callers and handlers say in their own words.

CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    store TEXT NOT NULL,
    clock INTEGER NOT NULL -- high-water mark
) STRICT;
INSERT INTO meta (one, store, clock) VALUES (1, lower(hex(randomblob(16))), 0);

-- The limits; a queue without one has no row.
CREATE TABLE queue (
    name TEXT PRIMARY KEY,
    concurrency INTEGER NOT NULL CHECK (concurrency >= 0)
) STRICT, WITHOUT ROWID;

-- What was asked for: written once. Long payloads never move again.
CREATE TABLE request (
    seq INTEGER PRIMARY KEY, -- the order of arrival
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    key TEXT,
    attempts_max INTEGER NOT NULL,
    rescues_max INTEGER NOT NULL,
    timeout INTEGER NOT NULL,
    backoff_min INTEGER NOT NULL,
    backoff_max INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    submitted_at INTEGER NOT NULL,
    payload BLOB NOT NULL,
    CONSTRAINT "a payload has at most 64 MiB" CHECK (length(payload) <= 67108864)
) STRICT;
CREATE UNIQUE INDEX request_id ON request (id);
CREATE UNIQUE INDEX request_key ON request (key) WHERE key IS NOT NULL;

-- What became of it: written anew with every change, so that it is kept narrow.
CREATE TABLE task (
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
    worker TEXT,
    slot TEXT,
    cause TEXT,
    cancel TEXT,
    error TEXT,
    output BLOB,
    CONSTRAINT "only a running task has a lease" CHECK ((state = 3) = (lease_expires_at IS NOT NULL)),
    CONSTRAINT "a given-back attempt was counted" CHECK (attempt >= 0),
    CONSTRAINT "a blocked task waits for a parent" CHECK (parents_pending >= (state = 0)),
    CONSTRAINT "an error text has no NUL bytes" CHECK (error IS NULL OR instr(error, char(0)) = 0),
    CONSTRAINT "a cancel reason has no NUL bytes" CHECK (cancel IS NULL OR instr(cancel, char(0)) = 0),
    CONSTRAINT "an output has at most 64 MiB" CHECK (output IS NULL OR length(output) <= 67108864)
) STRICT;
-- Each also holds seq, as every index does.
CREATE INDEX task_scheduled ON task (queue, due_at) WHERE state = 1;
CREATE INDEX task_ready ON task (queue, priority) WHERE state = 2;
CREATE INDEX task_running ON task (queue) WHERE state = 3; -- not the lease, so that a renewal leaves it alone

-- Who holds which slot: a row from the insert to the end. (An index on `task` would cost every task's every change.)
CREATE TABLE slot (
    name TEXT PRIMARY KEY,
    task INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE edge (
    parent INTEGER NOT NULL,
    child INTEGER NOT NULL,
    on_failure TEXT NOT NULL,
    PRIMARY KEY (parent, child)
) STRICT, WITHOUT ROWID;

-- The attempts that another followed.
CREATE TABLE attempt (
    task INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    worker TEXT NOT NULL,
    claimed_at INTEGER NOT NULL,
    entered_at INTEGER,
    ended_at INTEGER NOT NULL,
    cause TEXT NOT NULL,
    error TEXT,
    mark INTEGER NOT NULL,
    PRIMARY KEY (task, fence)
) STRICT, WITHOUT ROWID;
