-- Version 3: the store's clock follows the host's time since boot, which nobody can set. See clock.rs.

-- All NULL, or all set: which boot of which host; microseconds since it; the store's time then; how far the wall clock
-- was ahead of that.
ALTER TABLE meta ADD COLUMN boot TEXT;
ALTER TABLE meta ADD COLUMN line_from INTEGER;
ALTER TABLE meta ADD COLUMN line_at INTEGER;
ALTER TABLE meta ADD COLUMN line_gap INTEGER;
