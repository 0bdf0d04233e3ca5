-- What a committed transaction has changed of the cache and the cache has not yet heard of (tx:forget). Rows live for
-- milliseconds; one that is older belongs to a process that died, or to a time when Redis was away.
CREATE TABLE cache_forget (
  id   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  keys text[] NOT NULL DEFAULT '{}',
  tags text[] NOT NULL DEFAULT '{}',
  at   timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0.01);
