-- Version 4: what has ended is listed by the call instead of being indexed by the task.

-- So that a program of an older version that is still running fails loudly: it would list nothing.
ALTER TABLE meta RENAME COLUMN high_water TO high_mark;

-- The tasks that ended in one call, until they are pruned. A row for the call, since an index on `task` would cost every
-- task's settling more than an eighth.
CREATE TABLE ended (
    shelf INTEGER NOT NULL CHECK (shelf BETWEEN 0 AND 3), -- see shelf.rs
    at INTEGER NOT NULL,
    first INTEGER NOT NULL,
    tasks TEXT NOT NULL, -- a JSON list of what `seq` says
    PRIMARY KEY (shelf, at, first)
) STRICT, WITHOUT ROWID;
INSERT INTO ended (shelf, at, first, tasks)
SELECT iif(state = 4, 0, 1), finished_at, seq, json_array(seq) FROM task WHERE state > 3;
DROP INDEX task_ended;
