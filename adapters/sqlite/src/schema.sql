-- Version 1. Times are microseconds since the Unix epoch by the store's clock, durations microseconds; states have
-- the codes of `State`, causes and policies are their words.

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

-- What is read together stands together, and the long columns stand last.
CREATE TABLE task (
    seq INTEGER PRIMARY KEY, -- the order of arrival
    id TEXT NOT NULL,
    state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 6),
    rev INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0,
    mark INTEGER NOT NULL DEFAULT 0,
    lease_expires_at INTEGER,
    queue TEXT NOT NULL,
    kind TEXT NOT NULL,
    slot TEXT,
    key TEXT,
    priority INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    attempts_max INTEGER NOT NULL,
    rescues INTEGER NOT NULL DEFAULT 0,
    rescues_max INTEGER NOT NULL,
    timeout INTEGER NOT NULL,
    backoff_min INTEGER NOT NULL,
    backoff_max INTEGER NOT NULL,
    parents_pending INTEGER NOT NULL DEFAULT 0,
    digest INTEGER NOT NULL,
    submitted_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    claimed_at INTEGER,
    entered_at INTEGER,
    finished_at INTEGER,
    worker TEXT,
    cause TEXT,
    cancel TEXT,
    error TEXT,
    payload BLOB, -- NULL: it is long, and stands in `long_payload`
    output BLOB,
    CONSTRAINT "only a running task has a lease" CHECK ((state = 3) = (lease_expires_at IS NOT NULL)),
    CONSTRAINT "a given-back attempt was counted" CHECK (attempt >= 0),
    CONSTRAINT "a blocked task waits for a parent" CHECK (parents_pending >= (state = 0)),
    CONSTRAINT "names have no NUL bytes"
        CHECK (instr(id || kind || queue || coalesce(slot, '') || coalesce(key, ''), char(0)) = 0),
    CONSTRAINT "a worker's name has no NUL bytes" CHECK (instr(worker, char(0)) = 0),
    CONSTRAINT "an error text has no NUL bytes" CHECK (instr(error, char(0)) = 0),
    CONSTRAINT "a cancel reason has no NUL bytes" CHECK (instr(cancel, char(0)) = 0),
    CONSTRAINT "a payload has at most 64 MiB" CHECK (length(payload) <= 67108864),
    CONSTRAINT "an output has at most 64 MiB" CHECK (length(output) <= 67108864)
) STRICT;

CREATE UNIQUE INDEX task_id ON task (id);
CREATE UNIQUE INDEX task_key ON task (key) WHERE key IS NOT NULL;
CREATE UNIQUE INDEX task_slot ON task (slot) WHERE slot IS NOT NULL AND state < 4;
CREATE INDEX task_scheduled ON task (queue, due_at) WHERE state = 1;
CREATE INDEX task_ready ON task (queue, priority) WHERE state = 2; -- and seq, as in every index
CREATE INDEX task_running ON task (queue) WHERE state = 3; -- without the lease, so that renewing leaves it alone
CREATE INDEX task_failed ON task (state) WHERE state = 5;

-- A row that is updated is written anew: long payloads stay out of it.
CREATE TABLE long_payload (
    task INTEGER PRIMARY KEY,
    payload BLOB NOT NULL,
    CONSTRAINT "a payload has at most 64 MiB" CHECK (length(payload) <= 67108864)
) STRICT;

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
