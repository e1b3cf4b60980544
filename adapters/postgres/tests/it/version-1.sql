-- A store as version 1 of the schema had it, dumped by pg_dump from one that this program's first release made, with
-- tasks in most states. The bodies of its functions are left out.
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE SCHEMA steadfast;
CREATE FUNCTION steadfast.apply_ca9dda3598ae0920(_clock bigint, _alone boolean, _ordered boolean, _together boolean, _m_step integer[], _m_batch integer[], _m_task text[], _m_from smallint[], _m_fence bigint[], _m_live boolean[], _m_lapsed boolean[], _m_mark bigint[], _m_target smallint[], _m_delay bigint[], _m_back integer[], _m_rescue integer[], _m_cause text[], _m_error text[], _m_output bytea[], _m_cancel text[], _m_entered bigint[], _r_step integer[], _r_batch integer[], _r_task text[], _r_fence bigint[], _r_lease bigint[], _r_entered bigint[], _i_step integer[], _i_batch integer[], _i_task text[], _i_kind text[], _i_queue text[], _i_slot text[], _i_key text[], _i_priority smallint[], _i_payload bytea[], _i_due_at bigint[], _i_delay bigint[], _i_attempts_max bigint[], _i_rescues_max bigint[], _i_timeout bigint[], _i_backoff_min bigint[], _i_backoff_max bigint[], _i_digest bigint[], _parents text[], _e_at integer[], _e_place integer[], _e_beside integer[], _e_parent text[], _e_child text[], _e_run boolean[], _l_batch integer[], _l_queue text[], _l_concurrency bigint[]) RETURNS TABLE(o_what smallint[], o_step integer[], o_task text[], o_state smallint[], o_rev bigint[], o_fence bigint[], o_cancelling boolean[], o_cancel text[], o_hints smallint)
    LANGUAGE plpgsql
    AS $$BEGIN END$$;
CREATE FUNCTION steadfast.claim_35723444540f847b(_worker text, _queues text[], _kinds text[], _max bigint, _lease bigint, _clock bigint) RETURNS TABLE(o_task text, o_fence bigint, o_kind text, o_queue text, o_slot text, o_payload bytea, o_attempt integer, o_attempts_max bigint, o_timeout bigint, o_backoff_min bigint, o_backoff_max bigint, o_priority smallint, o_seq bigint, o_next_due bigint)
    LANGUAGE plpgsql
    AS $$BEGIN END$$;
CREATE FUNCTION steadfast.moment(clock bigint) RETURNS bigint
    LANGUAGE sql
    AS $$SELECT coalesce(clock, (date_part('epoch', clock_timestamp()) * 1000000)::bigint)$$;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE steadfast.attempt (
    task text NOT NULL COLLATE pg_catalog."C",
    fence bigint NOT NULL,
    mark bigint NOT NULL,
    claimed_at bigint NOT NULL,
    entered_at bigint,
    ended_at bigint NOT NULL,
    attempt integer NOT NULL,
    worker text NOT NULL COLLATE pg_catalog."C",
    cause text NOT NULL COLLATE pg_catalog."C",
    error text COLLATE pg_catalog."C"
);
CREATE TABLE steadfast.edge (
    parent text NOT NULL COLLATE pg_catalog."C",
    child text NOT NULL COLLATE pg_catalog."C",
    run boolean NOT NULL
);
CREATE TABLE steadfast.meta (
    only_row boolean DEFAULT true NOT NULL,
    version integer NOT NULL,
    store text NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT meta_only_row_check CHECK (only_row)
);
CREATE TABLE steadfast.queue (
    name text NOT NULL COLLATE pg_catalog."C",
    concurrency bigint
)
WITH (fillfactor='50');
CREATE TABLE steadfast.task (
    seq bigint NOT NULL,
    rev bigint DEFAULT 0 NOT NULL,
    fence bigint DEFAULT 0 NOT NULL,
    mark bigint DEFAULT 0 NOT NULL,
    digest bigint NOT NULL,
    submitted_at bigint NOT NULL,
    due_at bigint NOT NULL,
    timeout bigint NOT NULL,
    backoff_min bigint NOT NULL,
    backoff_max bigint NOT NULL,
    attempts_max bigint NOT NULL,
    rescues_max bigint NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    rescues integer DEFAULT 0 NOT NULL,
    parents_pending integer DEFAULT 0 NOT NULL,
    priority smallint NOT NULL,
    state smallint NOT NULL,
    claimed_at bigint,
    entered_at bigint,
    lease_expires_at bigint,
    finished_at bigint,
    id text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL COLLATE pg_catalog."C",
    queue text NOT NULL COLLATE pg_catalog."C",
    slot text COLLATE pg_catalog."C",
    key text COLLATE pg_catalog."C",
    worker text COLLATE pg_catalog."C",
    cause text COLLATE pg_catalog."C",
    error text COLLATE pg_catalog."C",
    cancel text COLLATE pg_catalog."C",
    payload bytea NOT NULL,
    output bytea,
    CONSTRAINT task_check CHECK (((state = 3) = (lease_expires_at IS NOT NULL))),
    CONSTRAINT task_check1 CHECK (((state > 3) = (finished_at IS NOT NULL))),
    CONSTRAINT task_check2 CHECK (((state <> 0) OR (parents_pending > 0))),
    CONSTRAINT task_output_check CHECK ((octet_length(output) <= 67108864)),
    CONSTRAINT task_payload_check CHECK ((octet_length(payload) <= 67108864)),
    CONSTRAINT task_state_check CHECK (((state >= 0) AND (state <= 6)))
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='1000', autovacuum_vacuum_insert_scale_factor='0.1', autovacuum_analyze_scale_factor='0.05', autovacuum_vacuum_cost_delay='1');
ALTER TABLE steadfast.task ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME steadfast.task_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
INSERT INTO steadfast.attempt (task, fence, mark, claimed_at, entered_at, ended_at, attempt, worker, cause, error) VALUES ('retried', 1, -5454095091131107828, 1795247834986839, 1795247834996185, 1795247834997438, 1, 'worker-1', 'error', 'again');
INSERT INTO steadfast.edge (parent, child, run) VALUES ('running', 'blocked', false);
INSERT INTO steadfast.meta (only_row, version, store) VALUES (true, 1, 'e2a2684f-1633-46be-b6b0-afdd3c52b44f');
INSERT INTO steadfast.queue (name, concurrency) VALUES ('limited', 3);
INSERT INTO steadfast.task (seq, rev, fence, mark, digest, submitted_at, due_at, timeout, backoff_min, backoff_max, attempts_max, rescues_max, attempt, rescues, parents_pending, priority, state, claimed_at, entered_at, lease_expires_at, finished_at, id, kind, queue, slot, key, worker, cause, error, cancel, payload, output) OVERRIDING SYSTEM VALUE VALUES (3, 1, 1, 0, -6159181309314173798, 1795247834985903, 1795247834985903, 3600000000, 1000000, 300000000, 3, 5, 1, 0, 0, 0, 3, 1795247834986839, NULL, 4948847834986839, NULL, 'running', 'scan', 'default', 's', NULL, 'worker-1', NULL, NULL, NULL, '\x7b7d', NULL);
INSERT INTO steadfast.task (seq, rev, fence, mark, digest, submitted_at, due_at, timeout, backoff_min, backoff_max, attempts_max, rescues_max, attempt, rescues, parents_pending, priority, state, claimed_at, entered_at, lease_expires_at, finished_at, id, kind, queue, slot, key, worker, cause, error, cancel, payload, output) OVERRIDING SYSTEM VALUE VALUES (2, 2, 1, -5454095091131107828, 3776650644030611068, 1795247834985298, 1795247834985298, 3600000000, 1000000, 300000000, 3, 5, 1, 0, 0, 0, 2, 1795247834986839, 1795247834996185, NULL, NULL, 'retried', 'scan', 'default', NULL, NULL, 'worker-1', 'error', 'again', NULL, '\x7b7d', NULL);
INSERT INTO steadfast.task (seq, rev, fence, mark, digest, submitted_at, due_at, timeout, backoff_min, backoff_max, attempts_max, rescues_max, attempt, rescues, parents_pending, priority, state, claimed_at, entered_at, lease_expires_at, finished_at, id, kind, queue, slot, key, worker, cause, error, cancel, payload, output) OVERRIDING SYSTEM VALUE VALUES (1, 2, 1, -443506543032613358, -8598721997177563774, 1795247834975213, 1795247834975213, 3600000000, 1000000, 300000000, 3, 5, 1, 0, 0, 0, 4, 1795247834986839, 1795247834996185, NULL, 1795247834996185, 'succeeded', 'scan', 'default', NULL, 'k', 'worker-1', 'done', NULL, NULL, '\x7b7d', '\x3432');
INSERT INTO steadfast.task (seq, rev, fence, mark, digest, submitted_at, due_at, timeout, backoff_min, backoff_max, attempts_max, rescues_max, attempt, rescues, parents_pending, priority, state, claimed_at, entered_at, lease_expires_at, finished_at, id, kind, queue, slot, key, worker, cause, error, cancel, payload, output) OVERRIDING SYSTEM VALUE VALUES (4, 0, 0, 0, -184803194090303682, 1795247834998530, 1795247834998530, 3600000000, 1000000, 300000000, 3, 5, 0, 0, 1, 0, 0, NULL, NULL, NULL, NULL, 'blocked', 'scan', 'default', NULL, NULL, NULL, NULL, NULL, NULL, '\x7b7d', NULL);
INSERT INTO steadfast.task (seq, rev, fence, mark, digest, submitted_at, due_at, timeout, backoff_min, backoff_max, attempts_max, rescues_max, attempt, rescues, parents_pending, priority, state, claimed_at, entered_at, lease_expires_at, finished_at, id, kind, queue, slot, key, worker, cause, error, cancel, payload, output) OVERRIDING SYSTEM VALUE VALUES (5, 0, 0, 0, -6598648949895566215, 1795247834999305, 4948847834999305, 3600000000, 1000000, 300000000, 3, 5, 0, 0, 0, 0, 1, NULL, NULL, NULL, NULL, 'scheduled', 'scan', 'default', NULL, NULL, NULL, NULL, NULL, NULL, '\x7b7d', NULL);
INSERT INTO steadfast.task (seq, rev, fence, mark, digest, submitted_at, due_at, timeout, backoff_min, backoff_max, attempts_max, rescues_max, attempt, rescues, parents_pending, priority, state, claimed_at, entered_at, lease_expires_at, finished_at, id, kind, queue, slot, key, worker, cause, error, cancel, payload, output) OVERRIDING SYSTEM VALUE VALUES (6, 0, 0, 0, -4374432978127022083, 1795247834999677, 1795247834999677, 3600000000, 1000000, 300000000, 3, 5, 0, 0, 0, 0, 2, NULL, NULL, NULL, NULL, 'ready', 'scan', 'default', 't', NULL, NULL, NULL, NULL, NULL, '\x7b7d', NULL);
INSERT INTO steadfast.task (seq, rev, fence, mark, digest, submitted_at, due_at, timeout, backoff_min, backoff_max, attempts_max, rescues_max, attempt, rescues, parents_pending, priority, state, claimed_at, entered_at, lease_expires_at, finished_at, id, kind, queue, slot, key, worker, cause, error, cancel, payload, output) OVERRIDING SYSTEM VALUE VALUES (7, 1, 0, -3340044219168663328, 3776650644030611068, 1795247835002970, 1795247835002970, 3600000000, 1000000, 300000000, 3, 5, 0, 0, 0, 0, 6, NULL, NULL, NULL, 1795247835003407, 'cancelled', 'scan', 'default', NULL, NULL, NULL, 'cancelled', 'no', NULL, '\x7b7d', NULL);
SELECT pg_catalog.setval('steadfast.task_seq_seq', 7, true);
ALTER TABLE ONLY steadfast.attempt
    ADD CONSTRAINT attempt_pkey PRIMARY KEY (task, fence);
ALTER TABLE ONLY steadfast.edge
    ADD CONSTRAINT edge_pkey PRIMARY KEY (parent, child);
ALTER TABLE ONLY steadfast.meta
    ADD CONSTRAINT meta_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY steadfast.queue
    ADD CONSTRAINT queue_pkey PRIMARY KEY (name);
ALTER TABLE ONLY steadfast.task
    ADD CONSTRAINT task_pkey PRIMARY KEY (id) WITH (fillfactor='50');
CREATE INDEX edge_child ON steadfast.edge USING btree (child);
CREATE UNIQUE INDEX task_key ON steadfast.task USING btree (key) WHERE (key IS NOT NULL);
CREATE INDEX task_ready ON steadfast.task USING btree (queue, priority, seq) WHERE (state = 2);
CREATE INDEX task_running ON steadfast.task USING btree (queue, lease_expires_at) WHERE (state = 3);
CREATE INDEX task_scheduled ON steadfast.task USING btree (queue, due_at) WHERE (state = 1);
CREATE UNIQUE INDEX task_slot ON steadfast.task USING btree (slot) WHERE ((slot IS NOT NULL) AND (state < 4));
